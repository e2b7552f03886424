// What the network makes of the image that is shown: everything on the page follows from it.

"use strict";

const MAX_SHOWN = 30; // classes; of more, the longest are shown

// The capsules, every iteration, the class j and the lower capsule i that are looked at.
function lookAt({ network, images, state, memory }) {
  const { J, E } = network;
  const image = state.own ? toFloat(state.own) : images[state.number]; // (H, W, C)
  const key = state.own ?? state.number;
  if (memory.key !== key) Object.assign(memory, { key, ...perceive(image, network) });
  const { u, u_hat } = memory; // (I, D), (I, J, E)
  const { prior } = network.params; // (I, J), of few networks
  const coupling = state.wrong ? makeWrongCoupling(J, prior) : makeCoupling(network.coupling, J, prior);
  const course = route(u_hat, iterationsOf(network), coupling, network);
  const r = state.even ? 1 : state.r;
  const shown = course[r - 1];
  const lengths = course.map(({ v }) => lengthsOf(v, E)); // (R, J)
  const longest = indexOfLargest(lengths[r - 1]);
  const j = state.chosen ?? longest;
  const column = columnTo(j, shown.c, J); // (I,)
  const i = state.capsule ?? indexOfLargest(column);
  return { ...state, image, u, u_hat, course, r, shown, lengths, longest, j, column, i };
}

// The classes to show, in their order: all, or of many the longest and the chosen one.
function foremost(lengths, chosen) {
  const order = [...lengths.keys()].sort((one, other) => lengths[other] - lengths[one]);
  return [...new Set([chosen, ...order])].slice(0, MAX_SHOWN).sort((one, other) => one - other);
}

// What the iterations after the first have changed, in words.
function changeText({ r, course, lengths }, names, J) {
  const [even, strength] = [course[0].c, course[r - 1].c].map((c) => meanOfLargest(c, J).toFixed(2));
  if (r === 1) {
    return `After iteration 1 the largest coupling of a lower capsule is ${even} on average. `
      + "Move the slider to see what routing changes.";
  }
  const [first, now] = [lengths[0], lengths[r - 1]]; // (J,), (J,)
  const told = mostChanged(first, now).map((j) => (
    `the capsule of ${names[j]} went from ${first[j].toFixed(2)} to ${now[j].toFixed(2)}`
  ));
  const [before, longest] = [first, now].map(indexOfLargest);
  const other = before === longest ? "the same is the longest" : `the longest was that of ${names[before]}`;
  return `From iteration 1 to ${r} ${told.join(", ") || "no length has changed by 0.01"}; ${other}. `
    + `The largest coupling of a lower capsule was ${even} on average and is ${strength}.`;
}

// The two classes whose lengths have changed most, and by 0.01 at least.
function mostChanged(first, now) {
  const change = now.map((length, j) => Math.abs(length - first[j])); // (J,)
  const order = [...change.keys()].sort((one, other) => change[other] - change[one]);
  return order.slice(0, 2).filter((j) => change[j] >= 0.01);
}

function meanOfLargest(c, J) {
  const I = c.length / J;
  return sum(Array.from({ length: I }, (_, i) => largest(c.subarray(i * J, (i + 1) * J)))) / I;
}

function placeText(i, { types, primary: { grid: [, Q] } }) {
  const position = Math.floor(i / types);
  return `row ${Math.floor(position / Q)}, column ${position % Q}, type ${i % types}`;
}
