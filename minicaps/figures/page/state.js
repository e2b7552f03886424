// What is shown, as the address of the page says it behind "#", so that a view can be shared.

"use strict";

const MIN_ITERATIONS = 7; // of the slider
const MAX_SHARED = 4096; // numbers of an image that an address holds
const EQUATIONS = ["u_hat", "c", "s", "v", "b"];

// `number` is that of a test image in the page, `own` the pixels of a drawing or picture (H·W·C,). `chosen`
// is a class, null the longest; `capsule` a lower capsule, null the one with the largest coupling to that
// class; `moved` are numbers of the class capsule by position.
function firstState({ R }) {
  return {
    number: 0, own: null, r: R, even: false, wrong: false, chosen: null, capsule: null, map: "c",
    equation: "s", moved: {},
  };
}

function writeState(state, network) {
  const first = firstState(network);
  const found = new URLSearchParams();
  for (const name of ["number", "r", "chosen", "capsule", "map", "equation"]) {
    if (state[name] !== first[name]) found.set(name, state[name]);
  }
  for (const name of ["even", "wrong"]) if (state[name]) found.set(name, "1");
  const moved = Object.entries(state.moved).map(([e, value]) => `${e}:${value.toFixed(4)}`);
  if (moved.length) found.set("moved", moved.join(" "));
  if (state.own && isShared(network)) found.set("own", writeBytes(state.own));
  return found.toString();
}

// Whatever an address says, the state is one that can be shown: what cannot be is left out.
function readState(text, network, images) {
  const found = new URLSearchParams(text);
  const state = firstState(network);
  const [H, W, C] = network.image_shape;
  const own = isShared(network) ? readBytes(found.get("own")) : null; // (H·W·C,)
  if (own && own.length === H * W * C) state.own = own;
  state.number = wholeNumber(found.get("number"), 0, images - 1) ?? state.number;
  state.r = wholeNumber(found.get("r"), 1, iterationsOf(network)) ?? state.r;
  state.chosen = wholeNumber(found.get("chosen"), 0, network.J - 1);
  state.capsule = wholeNumber(found.get("capsule"), 0, network.I - 1);
  state.map = found.get("map") === "b" ? "b" : "c";
  state.equation = EQUATIONS.includes(found.get("equation")) ? found.get("equation") : state.equation;
  for (const name of ["even", "wrong"]) state[name] = found.get(name) === "1";
  state.moved = readMoved(found.get("moved") ?? "", network.E);
  return state;
}

function iterationsOf({ R }) {
  return Math.max(R, MIN_ITERATIONS);
}

function isShared({ image_shape: [H, W, C] }) {
  return H * W * C <= MAX_SHARED;
}

function wholeNumber(text, least, most) {
  return /^\d{1,9}$/.test(text ?? "") && least <= Number(text) && Number(text) <= most ? Number(text) : null;
}

function readMoved(text, E) {
  const moved = {};
  for (const pair of text.split(" ")) {
    const [position, value] = pair.split(":");
    const e = wholeNumber(position, 0, E - 1);
    if (e !== null && /^-?\d{1,3}(\.\d{1,6})?$/.test(value ?? "")) moved[e] = Number(value);
  }
  return moved;
}

function writeBytes(bytes) {
  return encodeBase64(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

function readBytes(text) {
  if (!/^[\w-]+$/.test(text ?? "") || text.length % 4 === 1) return null;
  return decodeBase64(text.replaceAll("-", "+").replaceAll("_", "/"));
}
