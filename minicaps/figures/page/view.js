// What the network makes of the image that is shown, and the parts of the page that show it.

"use strict";

const MAX_SHOWN = 30; // classes; of more, the longest are shown
const EVEN = "R = 1: v is the sum of all votes with the first couplings, squashed.";
const WRONG = "The wrong softmax: the couplings to a class add up to 1 over the lower capsules; no class competes.";

// All that the page shows follows from its state: the capsules, every iteration, the chosen class and capsule.
function lookAt({ network, images, state, memory }) {
  const image = state.own ? toFloat(state.own) : images[state.image]; // (H, W, C)
  const key = state.own ?? state.image;
  if (memory.key !== key) Object.assign(memory, { key, ...perceive(image, network) });
  const { u, u_hat } = memory;
  const prior = network.params.prior; // (I, J), of few networks
  const { J } = network;
  const coupling = state.wrong ? makeWrongCoupling(J, prior) : makeCoupling(network.coupling, J, prior);
  const course = route(u_hat, iterationsOf(network), coupling, network);
  const r = state.even ? 1 : state.r;
  const shown = course[r - 1];
  const lengths = course.map(({ v }) => lengthsOf(v, network.E)); // (iterations, J)
  const longest = lengths[r - 1].indexOf(largest(lengths[r - 1]));
  const j = state.chosen ?? longest;
  const column = columnTo(j, shown.c, J); // (I,)
  const strongest = column.indexOf(largest(column));
  const i = state.capsule ?? strongest;
  return { ...state, image, u, u_hat, course, r, shown, lengths, longest, j, column, i };
}

function show(page) {
  const view = lookAt(page);
  showImage(view, page);
  showLengths(view, page);
  if (page.network.decoder) showDecoder(view, page);
  showRouting(view, page);
  showMap(view, page);
  showPlane(view, page);
  showCourse(view, page);
  showArithmetic(view, page);
}

// -- the image and the class capsules ------------------------------------------------------------

function showImage({ own, image }, { network, names, images, labels, numbers, state }) {
  paintImage(at("seen"), image, network.image_shape);
  const test = `test image ${numbers[state.image]}, of class ${names[labels[state.image]]}`;
  describe("seen", `What the network sees: ${own ? "a drawing or picture of yours" : test}`);
  at("images").querySelectorAll("button").forEach((button, n) => {
    button.setAttribute("aria-pressed", String(!own && n === state.image));
  });
  at("not-shared").textContent = own && !isShared(network)
    ? "It does not hold your picture, which is too large for it." : "";
}

function showLengths({ own, image, lengths, r, j, longest }, { names, labels, state }) {
  const [now, first] = [lengths[r - 1], lengths[0]]; // (J,), (J,)
  const label = labels[state.image];
  const verdict = label === longest ? "This is the label." : `The label is ${names[label]}.`;
  const dark = largest(image) === 0 ? "The image is black. " : "";
  at("answer").textContent = `${dark}The longest capsule is that of ${names[longest]}, `
    + `with ${now[longest].toFixed(2)}. ${own ? "" : verdict}`;
  const shown = foremost(now, j);
  at("bars-note").textContent = shown.length < now.length ? `, of ${now.length} classes the longest` : "";
  at("chosen").value = state.chosen ?? "longest";
  at("lengths").replaceChildren(...shown.map((k) => {
    const bar = make("div", { className: "bar" }, make("div"), make("i"));
    bar.children[0].style.width = `${100 * now[k]}%`;
    bar.children[1].style.left = `calc(${100 * first[k]}% - 1px)`;
    const head = make("th", { scope: "row" }, names[k]);
    return make("tr", { className: k === j ? "chosen" : "" }, head, make("td", {}, bar),
      make("td", {}, now[k].toFixed(3)));
  }));
}

// The classes to show, in their order: all, or of many the longest and the chosen one.
function foremost(lengths, chosen) {
  const order = [...lengths.keys()].sort((one, other) => lengths[other] - lengths[one]);
  return [...new Set([chosen, ...order])].slice(0, MAX_SHOWN).sort((one, other) => one - other);
}

// -- the decoder -----------------------------------------------------------------------------------

function showDecoder({ image, shown, j, moved }, page) {
  const { network, names } = page;
  const { E, image_shape } = network;
  const v = shown.v.slice(j * E, (j + 1) * E); // (E,)
  const changed = v.map((value, e) => moved[e] ?? value); // (E,)
  const reconstruction = decode(v, j, network); // (H, W, C)
  paintImage(at("reconstruction"), reconstruction, image_shape);
  paintImage(at("moved"), decode(changed, j, network), image_shape);
  const error = sum(reconstruction.map((pixel, k) => (pixel - image[k]) ** 2)).toFixed(1);
  at("decoder-text").textContent = `The capsule of ${names[j]} reconstructs the image with a squared error of `
    + `${error}; with the sliders it is ${norm(changed).toFixed(2)} long.`;
  describe("reconstruction", `Reconstruction from the capsule of ${names[j]}; squared error ${error}`);
  describe("moved", `What the decoder makes of the capsule of ${names[j]} with the sliders`);
  showSliders(v, changed, page.ranges[j]);
}

// v and what the sliders make of it (E,), and the range of every number (E, 2).
function showSliders(v, changed, ranges) {
  at("sliders").querySelectorAll("label").forEach((label, e) => {
    const [low, high] = [Math.min(ranges[e][0], v[e]), Math.max(ranges[e][1], v[e])];
    const slider = label.querySelector("input");
    [slider.min, slider.max, slider.step] = [low, high, (high - low) / 100];
    if (document.activeElement !== slider) slider.value = changed[e];
    slider.setAttribute("aria-valuetext", changed[e].toFixed(3));
    label.querySelector("output").textContent = numberText(changed[e]);
  });
}

// -- the routing -----------------------------------------------------------------------------------

function showRouting({ r, course, lengths, even, wrong }, { network, names }) {
  at("iteration").value = r;
  at("iteration").disabled = even;
  at("iteration-value").textContent = r === network.R ? `${r}, as in training` : `${r} (${network.R} in training)`;
  [at("even").checked, at("wrong").checked] = [even, wrong];
  at("change").textContent = changeText(r, course, lengths, names, network.J);
  at("switches").textContent = [even ? EVEN : "", wrong ? WRONG : ""].join(" ");
}

// What the iterations after the first have changed, in words.
function changeText(r, course, lengths, names, J) {
  const strength = (c) => meanOfLargest(c, J).toFixed(2);
  const first = `the largest coupling of a lower capsule is ${strength(course[0].c)} on average`;
  if (r === 1) return `After iteration 1, ${first}. Move the slider to see what routing changes.`;
  const change = lengths[r - 1].map((length, j) => length - lengths[0][j]); // (J,)
  const [most, least] = [change.indexOf(largest(change)), change.indexOf(smallest(change))];
  const told = [...new Set([most, least])].map((j) => (
    `the capsule of ${names[j]} went from ${lengths[0][j].toFixed(2)} to ${lengths[r - 1][j].toFixed(2)}`
  ));
  const [before, now] = [lengths[0], lengths[r - 1]].map((each) => each.indexOf(largest(each)));
  const other = before === now ? "the longest is the same" : `the longest was that of ${names[before]} before`;
  return `From iteration 1 to ${r}: ${told.join(", ")}; ${other}. The largest coupling of a lower capsule was `
    + `${strength(course[0].c)} on average and is ${strength(course[r - 1].c)}.`;
}

function meanOfLargest(c, J) {
  const most = Array.from({ length: c.length / J }, (_, i) => largest(c.subarray(i * J, (i + 1) * J))); // (I,)
  return sum(most) / most.length;
}

function showMap({ image, course, shown, i, j, map }, { network, names }) {
  const columnOf = ({ [map]: values }) => columnTo(j, values, network.J); // (I,)
  const values = columnOf(shown);
  const most = largest(course.map((each) => largest(columnOf(each).map(Math.abs))));
  paintMap(at("map"), image, values, most, i, network);
  at("map-of").value = map;
  const best = values.indexOf(largest(values));
  const what = map === "c" ? `coupling to ${names[j]}` : `logit for ${names[j]} (orange above 0, blue below)`;
  const [low, mean, high] = [smallest(values), sum(values) / values.length, values[best]].map(numberText);
  at("map-text").textContent = `Each lower capsule, where it stands, and its ${what}: from ${low} to ${high}, `
    + `on average ${mean}. The largest is that of capsule ${best} (${placeText(best, network)}).`;
}

function placeText(i, { types, primary: { grid: [, Q] } }) {
  const position = Math.floor(i / types);
  return `row ${Math.floor(position / Q)}, column ${position % Q}, type ${i % types}`;
}

function showPlane({ u_hat, shown, column, i, j }, { network, names }) {
  const { I, J, E } = network;
  const own = new Float32Array(I * E); // (I, E), the votes for j
  for (let k = 0; k < I; k++) own.set(u_hat.subarray((k * J + j) * E, (k * J + j + 1) * E), k * E);
  const [s, v] = [shown.s, shown.v].map((each) => each.subarray(j * E, (j + 1) * E)); // (E,), (E,)
  const { directions, share } = principalPlane(own, E);
  const project = (x) => directions.map((direction) => dot(direction, 0, x, 0, E)); // (E,) -> (2,)
  const votes = Array.from({ length: I }, (_, k) => project(own.subarray(k * E, (k + 1) * E))); // (I, 2)
  const factor = paintPlane(at("plane"), { votes, c: column, s: project(s), v: project(v), chosen: i });
  at("plane-text").textContent = `Each dot is the vote û of a lower capsule for ${names[j]}`
    + `${factor > 1 ? `, drawn ${factor} times as long` : ""}, the larger the larger its coupling. `
    + `Their sum s (dashed) is ${norm(s).toFixed(2)} long, and v, which is s squashed, ${norm(v).toFixed(2)}; `
    + `the circle is length 1. These two directions hold ${Math.round(100 * share)} % of the votes' squared lengths.`;
  describe("plane", at("plane-text").textContent);
}

function showCourse({ lengths, r, j }, { names }) {
  const head = make("tr", {}, make("th", { scope: "col" }, "Class"),
    ...lengths.map((_, k) => make("th", { scope: "col" }, `${k + 1}${k + 1 === r ? " (shown)" : ""}`)));
  const rows = foremost(lengths[r - 1], j).map((k) => make("tr", { className: k === j ? "chosen" : "" },
    make("th", { scope: "row" }, names[k]), ...lengths.map((each) => make("td", {}, each[k].toFixed(3)))));
  at("course").replaceChildren(make("caption", {}, "Length after iteration"), head, ...rows);
}

// -- the arithmetic -----------------------------------------------------------------------------------

function showArithmetic(view, { network, names }) {
  const { J, E } = network;
  const { i, j, r, shown, u_hat } = view;
  if (document.activeElement !== at("capsule")) at("capsule").value = i;
  at("capsule-text").textContent = `Capsule ${i} stands at ${placeText(i, network)}. After iteration ${r}, `
    + `with class j = ${names[j]}:`;
  const titles = ["Class", "Logit b", "Coupling c", "Agreement û · v"];
  const rows = foremost(shown.c.subarray(i * J, (i + 1) * J), j).map((k) => {
    const agreement = dot(u_hat, (i * J + k) * E, shown.v, k * E, E);
    const cells = [shown.b[i * J + k], shown.c[i * J + k], agreement].map((x) => make("td", {}, numberText(x)));
    const head = make("th", { scope: "row" }, names[k]);
    return make("tr", { className: k === j ? "chosen" : "" }, head, ...cells);
  });
  at("shares").replaceChildren(make("tr", {}, ...titles.map((text) => make("th", { scope: "col" }, text))), ...rows);
  at("equation").value = view.equation;
  at("numbers").textContent = arithmeticOf(view, network);
}

// -- the document ----------------------------------------------------------------------------------------

function at(id) {
  return document.getElementById(id);
}

// A new element; text among its children stays text, whatever it holds.
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function describe(id, text) {
  at(id).setAttribute("aria-label", text);
}
