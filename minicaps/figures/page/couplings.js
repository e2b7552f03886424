// How a lower capsule shares itself out among the classes: from its logits (J,) to its couplings (J,).

"use strict";

const COUPLINGS = { softmax, hard, "top-k": topK, sparsemax, entmax };

// c of b (I, J): row by row, with what the network adds to the logits and leaves out of the couplings.
function makeCoupling({ kind, k, leaky }, J, prior) {
  return (b) => {
    const c = new Float32Array(b.length); // (I, J)
    for (let start = 0; start < b.length; start += J) {
      const logits = Array.from({ length: J }, (_, j) => b[start + j] + (prior ? prior[start + j] : 0));
      const shares = COUPLINGS[kind](leaky ? [...logits, 0] : logits, k);
      c.set(leaky ? shares.slice(0, J) : shares, start);
    }
    return c;
  };
}

// The fault of many codes: a softmax over the lower capsules i, so that no class competes.
function makeWrongCoupling(J, prior) {
  return (b) => {
    const c = new Float32Array(b.length); // (I, J)
    for (let j = 0; j < J; j++) {
      const logits = columnTo(j, b, J); // (I,)
      if (prior) columnTo(j, prior, J).forEach((own, i) => { logits[i] += own; });
      softmax(logits).forEach((share, i) => {
        c[i * J + j] = share;
      });
    }
    return c;
  };
}

// What all lower capsules have for one class, of couplings or logits (I, J): (I,).
function columnTo(j, c, J) {
  return Array.from({ length: c.length / J }, (_, i) => c[i * J + j]);
}

// c_j = exp b_j / Σ_k exp b_k, eq. 3.
function softmax(b) {
  const most = largest(b);
  return normalised(b.map((logit) => Math.exp(logit - most)));
}

// All to the best class; those that tie share evenly.
function hard(b) {
  const most = largest(b);
  return normalised(b.map((logit) => (logit === most ? 1 : 0)));
}

// A softmax over the k best classes, and those that tie with the last of them.
function topK(b, k) {
  const least = falling(b)[k - 1];
  return softmax(b.map((logit) => (logit >= least ? logit : -Infinity)));
}

// c_j = max(0, b_j - τ): of the k largest alone, τ = (their sum - 1)/k, and the largest of these counts.
function sparsemax(b) {
  const most = largest(b);
  const z = b.map((logit) => logit - most);
  let total = 0;
  const tau = largest(falling(z).map((value, k) => ((total += value) - 1) / (k + 1)));
  return z.map((value) => Math.max(0, value - tau));
}

// c_j = max(0, b_j/2 - τ)²: the support is as long as Σ (z_h - z_k)² over the larger z_h is below 1.
function entmax(b) {
  const most = largest(b);
  const z = b.map((logit) => (logit - most) / 2);
  const above = (value, k, all) => sum(all.slice(0, k).map((each) => (each - value) ** 2));
  const support = falling(z).filter((value, k, all) => above(value, k, all) < 1);
  const mean = sum(support) / support.length;
  const spread = sum(support.map((value) => (value - mean) ** 2));
  const tau = mean - Math.sqrt(Math.max(0, 1 - spread) / support.length);
  return z.map((value) => Math.max(0, value - tau) ** 2);
}

function normalised(shares) {
  const total = sum(shares);
  return shares.map((share) => share / total);
}
