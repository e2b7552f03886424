// The plane that shows most of some vectors.

"use strict";

const ROUNDS = 300; // of the power iteration

// vectors (N, E) -> two directions of length 1, and the share of Σ ‖vector‖² that lies in their plane.
function principalPlane(vectors, E) {
  const M = secondMoments(vectors, E); // (E, E)
  let total = 0;
  for (let e = 0; e < E; e++) total += M[e * E + e];
  const directions = [];
  let held = 0;
  for (let k = 0; k < 2; k++) {
    const { direction, value } = leading(M, E);
    directions.push(direction);
    held += value;
    for (let e = 0; e < E; e++) { // take it off: M - value · direction directionᵀ
      addMultiple(M.subarray(e * E, (e + 1) * E), -value * direction[e], direction, 0);
    }
  }
  return { directions, share: total > 0 ? held / total : 1 };
}

// Σ_n x_n x_nᵀ, about the origin, where all vectors begin: (E, E).
function secondMoments(vectors, E) {
  const M = new Float64Array(E * E); // (E, E)
  for (let start = 0; start < vectors.length; start += E) {
    const x = vectors.subarray(start, start + E); // (E,)
    for (let e = 0; e < E; e++) addMultiple(M.subarray(e * E, (e + 1) * E), x[e], x, 0);
  }
  return M;
}

// The eigenvector (E,) of the largest eigenvalue; of no vectors at all it is zeros.
function leading(M, E) {
  let best = 0;
  for (let e = 0; e < E; e++) if (M[e * E + e] > M[best * E + best]) best = e;
  let direction = M.slice(best * E, (best + 1) * E); // (E,)
  let value = 0;
  for (let round = 0; round < ROUNDS; round++) {
    value = norm(direction);
    if (!(value > 1e-30)) return { direction: new Float64Array(E), value: 0 };
    direction = direction.map((each) => each / value);
    const next = new Float64Array(E); // (E,)
    for (let e = 0; e < E; e++) next[e] = dot(M, e * E, direction, 0, E);
    direction = next;
  }
  value = norm(direction);
  return { direction: direction.map((each) => (value > 0 ? each / value : 0)), value };
}
