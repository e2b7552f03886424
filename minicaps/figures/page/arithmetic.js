// The numbers of one equation, for one lower capsule i and one class j, with the letters of the paper.

"use strict";

const MAX_TERMS = 16; // of a sum that is written out
const ARITHMETIC = { u_hat: ofVotes, c: ofCouplings, s: ofSum, v: ofSquash, b: ofLogits };

function productsText(x, y) {
  const factor = (value) => (value < 0 ? `(${numberText(value)})` : numberText(value));
  const terms = Array.from(x.slice(0, MAX_TERMS), (value, k) => `${factor(value)} · ${factor(y[k])}`);
  return terms.join(" + ") + (x.length > MAX_TERMS ? " + …" : "");
}

// The vectors of i and j out of all; W_ij's first column (D,) makes the vote's first number.
function partsOf({ u, u_hat, shown, i, j }, { I, D, J, E, params }) {
  const W = params["capsules.votes.W"]; // (I, D, J, E)
  return {
    u: u.slice(i * D, (i + 1) * D), // (D,)
    W: Array.from({ length: D }, (_, d) => W[((i * D + d) * J + j) * E]), // (D,)
    u_hat: u_hat.slice((i * J + j) * E, (i * J + j + 1) * E), // (E,)
    firsts: Array.from({ length: I }, (_, k) => u_hat[(k * J + j) * E]), // (I,): of all votes for j
    column: Array.from({ length: I }, (_, k) => shown.c[k * J + j]), // (I,)
    b: shown.b.slice(i * J, (i + 1) * J), // (J,)
    c: shown.c.slice(i * J, (i + 1) * J), // (J,)
    s: shown.s.slice(j * E, (j + 1) * E), // (E,)
    v: shown.v.slice(j * E, (j + 1) * E), // (E,)
  };
}

function ofVotes({ u, W, u_hat }) {
  return [
    "û_ij = u_i W_ij    (eq. 2, the vote of capsule i for class j)",
    `u_i = ${vectorText(u)}`,
    `first column of W_ij = ${vectorText(W)}`,
    `first number of û_ij = ${productsText(u, W)} = ${numberText(u_hat[0])}`,
    `û_ij = ${vectorText(u_hat)}`,
  ];
}

function ofCouplings({ b, c }, { j, wrong }, { coupling, params }) {
  const total = `which add up to ${numberText(sum(c))} over the classes`;
  const usual = coupling.kind === "softmax" && !coupling.leaky && !wrong && !("prior" in params);
  if (!usual) {
    const how = wrong ? "wrong: a softmax over the lower capsules" : couplingText(coupling, params);
    const logits = `b_i = ${vectorText(b)}`;
    return [`c_ij of the logits b_i    (${how})`, logits, `c_i = ${vectorText(c)}, ${total}`];
  }
  const powers = Array.from(b, Math.exp); // (J,)
  return [
    "c_ij = exp b_ij / Σ_k exp b_ik    (eq. 3, a softmax over the classes)",
    `b_i = ${vectorText(b)}`,
    `c_ij = ${numberText(powers[j])} / (${powers.map(numberText).join(" + ")}) = ${numberText(c[j])}`,
    `c_i = ${vectorText(c)}, ${total}`,
  ];
}

function couplingText({ kind, k, leaky }, params) {
  const name = kind === "top-k" ? `softmax over the best ${k}` : kind;
  const more = [leaky ? "one more class, whose logit is 0 and whose share is dropped" : "",
    "prior" in params ? "learned logits are added to b" : ""];
  return [name, ...more.filter(Boolean)].join("; ");
}

function ofSum({ u_hat, firsts, column, c, s }, { i, j }, { params }) {
  const bias = "capsules.routing.bias" in params ? " + bias_j" : "";
  return [
    `s_j = Σ_i c_ij û_ij${bias}    (eq. 2, over all ${column.length} lower capsules)`,
    `of capsule ${i}: c_ij û_ij = ${numberText(c[j])} · ${vectorText(u_hat)}`,
    `first number of s_j = ${productsText(column, firsts)}${bias} = ${numberText(s[0])}`,
    `s_j = ${vectorText(s)}`,
  ];
}

function ofSquash({ s, v }) {
  const n = norm(s);
  return [
    "v_j = ‖s_j‖² / (1 + ‖s_j‖²) · s_j / ‖s_j‖    (eq. 1, squash)",
    `‖s_j‖ = ${numberText(n)}`,
    `‖v_j‖ = ${numberText(n)}² / (1 + ${numberText(n)}²) = ${numberText(norm(v))}`,
    `first number of v_j = ${productsText([norm(v)], [s[0]])} / ${numberText(n)} = ${numberText(v[0])}`,
    `v_j = ${vectorText(v)}`,
  ];
}

function ofLogits({ u_hat, v, b }, { j }) {
  const agreement = dot(u_hat, 0, v, 0, v.length);
  return [
    "b_ij ← b_ij + û_ij · v_j    (procedure 1, for the next iteration)",
    `û_ij · v_j = ${productsText(u_hat, v)} = ${numberText(agreement)}`,
    `b_ij ← ${numberText(b[j])} + ${numberText(agreement)} = ${numberText(b[j] + agreement)}`,
  ];
}

function arithmeticOf(view, network) {
  return ARITHMETIC[view.equation](partsOf(view, network), view, network).join("\n");
}
