// The forward pass of a CapsNet for one image, in the letters of the paper and of the Python code.
// Every array is a flat Float32Array; its shape stands at the end of the line that makes it.

"use strict";

// image (H, W, C) -> the lower capsules u (I, D) and their votes u_hat (I, J, E).
function perceive(image, network) {
  const { conv, primary, params } = network;
  const x = rectify(convolve(image, conv, params["conv.W"], params["conv.bias"])); // (H', W', K)
  const y = convolve(x, primary, params["primary.conv.W"], params["primary.conv.bias"]); // (P, Q, types·D)
  const u = squash(y, network.D); // (I, D): a capsule's D numbers are neighbours
  return { u, u_hat: vote(u, params["capsules.votes.W"], network) };
}

// Every window of x (H, W, C) as a row: (P·Q, KH·KW·C).
function im2col(x, { size: [, W], channels, kernel: [KH, KW], stride: [down, right], grid: [P, Q] }) {
  const length = KW * channels;
  const cols = new Float32Array(P * Q * KH * length); // (P·Q, KH·KW·C)
  let at = 0;
  for (let p = 0; p < P; p++) {
    for (let q = 0; q < Q; q++) {
      for (let row = 0; row < KH; row++) {
        const start = ((p * down + row) * W + q * right) * channels;
        cols.set(x.subarray(start, start + length), at);
        at += length;
      }
    }
  }
  return cols;
}

function convolve(x, window, W, bias) {
  return affine(im2col(x, window), W, bias); // (P·Q, KH·KW·C) @ (KH·KW·C, K) -> (P·Q, K)
}

// a (N, M) @ W (M, K) + bias (K,) -> (N, K)
function affine(a, W, bias) {
  const K = bias.length;
  const M = W.length / K;
  const y = new Float32Array((a.length / M) * K); // (N, K)
  for (let n = 0; n * M < a.length; n++) {
    const row = y.subarray(n * K, (n + 1) * K); // (K,)
    row.set(bias);
    for (let m = 0; m < M; m++) addMultiple(row, a[n * M + m], W, m * K);
  }
  return y;
}

// row (K,) += factor · W[start : start + K]
function addMultiple(row, factor, W, start) {
  if (factor === 0) return; // black pixels, and what ReLU cut off
  for (let k = 0; k < row.length; k++) row[k] += factor * W[start + k];
}

function rectify(x) {
  return x.map((value) => Math.max(0, value));
}

// v = n²/(1 + n²) · s/n of every vector of `dimension` numbers, eq. 1: no division by n, so no epsilon.
function squash(s, dimension) {
  const v = new Float32Array(s.length); // (N, dimension)
  for (let start = 0; start < s.length; start += dimension) {
    const n = norm(s.subarray(start, start + dimension));
    const g = n <= 1 ? n / (1 + n * n) : 1 / n / (1 + 1 / (n * n));
    for (let d = start; d < start + dimension; d++) v[d] = g * s[d];
  }
  return v;
}

// u_hat_ij = u_i W_ij, eq. 2: u (I, D), W (I, D, J, E) -> (I, J, E).
function vote(u, W, { I, D, J, E }) {
  const u_hat = new Float32Array(I * J * E); // (I, J, E)
  for (let i = 0; i < I; i++) {
    const row = u_hat.subarray(i * J * E, (i + 1) * J * E); // (J, E)
    for (let d = 0; d < D; d++) addMultiple(row, u[i * D + d], W, (i * D + d) * J * E);
  }
  return u_hat;
}

// Routing by agreement, procedure 1: u_hat (I, J, E) -> b, c (I, J) and s, v (J, E) of every iteration.
function route(u_hat, iterations, coupling, { I, J, E, params }) {
  const bias = params["capsules.routing.bias"]; // (J, E), of few networks
  const course = [];
  let b = new Float32Array(I * J); // (I, J)
  for (let r = 1; r <= iterations; r++) {
    const c = coupling(b); // (I, J), eq. 3
    const s = combine(c, u_hat, bias, J, E); // (J, E), eq. 2
    const v = squash(s, E); // (J, E), eq. 1
    course.push({ b, c, s, v });
    b = b.map((logit, ij) => logit + dot(u_hat, ij * E, v, (ij % J) * E, E)); // (I, J)
  }
  return course;
}

// s_j = Σ_i c_ij u_hat_ij (+ bias_j): (J, E).
function combine(c, u_hat, bias, J, E) {
  const s = new Float32Array(J * E); // (J, E)
  if (bias) s.set(bias);
  for (let ij = 0; ij < c.length; ij++) {
    const start = (ij % J) * E;
    for (let e = 0; e < E; e++) s[start + e] += c[ij] * u_hat[ij * E + e];
  }
  return s;
}

function dot(x, at, y, from, length) {
  let total = 0;
  for (let e = 0; e < length; e++) total += x[at + e] * y[from + e];
  return total;
}

function norm(x) {
  return Math.sqrt(dot(x, 0, x, 0, x.length));
}

// The lengths of the class capsules v (J, E): (J,).
function lengthsOf(v, E) {
  return Array.from({ length: v.length / E }, (_, j) => norm(v.subarray(j * E, (j + 1) * E)));
}

// What the decoder makes of one class's capsule (E,), the others masked: (H, W, C).
function decode(capsule, j, { E, params }) {
  const W = params["decoder.fc1.W"]; // (J·E, M)
  const M = params["decoder.fc1.bias"].length;
  const own = W.subarray(j * E * M, (j + 1) * E * M); // (E, M): the masked rows count nothing
  let x = rectify(affine(capsule, own, params["decoder.fc1.bias"])); // (M,)
  x = rectify(affine(x, params["decoder.fc2.W"], params["decoder.fc2.bias"])); // (M',)
  x = affine(x, params["decoder.fc3.W"], params["decoder.fc3.bias"]); // (H·W·C,)
  return x.map((value) => 1 / (1 + Math.exp(-value)));
}
