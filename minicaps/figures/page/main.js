// The page: its network and images, its state, and what the controls do to it.

"use strict";

const PATIENCE = 200; // milliseconds that a change waits for the next one before the address says it

function readPage() {
  const { network, params, class_names, images, ranges, handwriting } = JSON.parse(at("data").textContent);
  const read = {
    network: readNetwork(network, params),
    names: class_names.map((name) => name.trim() || "(empty)"),
    images: readImages(images.pixels, network.image_shape),
    labels: images.labels,
    predictions: images.predictions,
    numbers: images.numbers, // of the test images, in their file
    ranges, // (J, E, 2)
    handwriting,
    memory: {}, // of the last image: its lower capsules and votes
  };
  return { ...read, state: readAddress(read) };
}

function readAddress({ network, images }) {
  return readState(location.hash.slice(1), network, images.length);
}

// Change the state, show it once in a frame, and let the address say it: browsers refuse many changes of it.
function update(page, change) {
  Object.assign(page.state, change);
  cancelAnimationFrame(page.frame);
  page.frame = requestAnimationFrame(() => show(page));
  clearTimeout(page.timer);
  page.timer = setTimeout(() => {
    history.replaceState(null, "", `#${writeState(page.state, page.network)}`);
  }, PATIENCE);
}

function start() {
  const page = readPage();
  addImages(page);
  addClasses(page);
  addSliders(page);
  listenToImage(page);
  listenToChoices(page);
  listenToMap(page);
  at("decoder").hidden = !page.network.decoder;
  at("iteration").max = iterationsOf(page.network);
  at("capsule").max = page.network.I - 1;
  window.addEventListener("hashchange", () => {
    page.state = readAddress(page);
    show(page);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(page));
  show(page);
  return page;
}

// -- what is made once ------------------------------------------------------------------------------

function addImages(page) {
  const { images, labels, predictions, numbers, names, network } = page;
  at("images").replaceChildren(...images.map((image, n) => {
    const canvas = make("canvas");
    paintImage(canvas, image, network.image_shape);
    const [label, prediction] = [names[labels[n]], names[predictions[n]]];
    const correct = labels[n] === predictions[n];
    const caption = make("span", {}, correct ? label : `${label} → ${prediction} ✗`);
    const button = make("button", { type: "button" }, canvas, caption);
    const taken = correct ? "" : `, which the network takes for ${prediction}`;
    button.setAttribute("aria-label", `Test image ${numbers[n]}, of class ${label}${taken}`);
    button.addEventListener("click", () => update(page, { number: n, own: null, moved: {} }));
    return make("li", {}, button);
  }));
}

function addClasses(page) {
  const options = page.names.map((name, j) => make("option", { value: j }, name));
  at("chosen").replaceChildren(make("option", { value: "longest" }, "the longest"), ...options);
}

function addSliders(page) {
  at("sliders").replaceChildren(...Array.from({ length: page.network.E }, (_, e) => {
    const slider = make("input", { type: "range" });
    slider.addEventListener("input", () => {
      update(page, { moved: { ...page.state.moved, [e]: Number(slider.value) } });
    });
    return make("label", {}, make("span", {}, String(e)), slider, make("output"));
  }));
}

// -- what the controls do ---------------------------------------------------------------------------

function listenToImage(page) {
  const { image_shape: [H, W, C] } = page.network;
  let drawn = null; // ink and its size, of the last drawing or picture
  const look = () => {
    if (!drawn) return;
    const { ink, size, fit } = drawn;
    const image = at("form").checked ? inChannels(likeMnist(ink, size, [H, W]), C) : fit(); // (H, W, C)
    update(page, { own: toBytes(image), moved: {} });
  };
  const clear = startPen(at("pen"), [H, W], (ink, size) => {
    drawn = { ink, size, fit: () => inChannels(resize(ink, size, [H, W]), C) };
    look();
  });
  at("form").checked = page.handwriting;
  at("form").addEventListener("change", look);
  at("clear").addEventListener("click", () => {
    clear();
    drawn = null;
    at("file").value = ""; // or the same file could not be chosen again
    update(page, { own: null, moved: {} });
  });
  at("file").addEventListener("change", async () => {
    const [file] = at("file").files;
    if (!file) return;
    const picture = await readPicture(file, [H, W, C]);
    at("file-error").textContent = picture ? "" : "This file is no picture that the browser can read.";
    if (!picture) return;
    drawn = picture;
    look();
  });
}

function listenToChoices(page) {
  const on = (id, event, change) => at(id).addEventListener(event, () => update(page, change(at(id))));
  on("chosen", "change", ({ value }) => ({ chosen: value === "longest" ? null : Number(value), moved: {} }));
  on("reset", "click", () => ({ moved: {} }));
  on("iteration", "input", ({ value }) => ({ r: Number(value), moved: {} }));
  on("even", "change", ({ checked }) => ({ even: checked, moved: {} }));
  on("wrong", "change", ({ checked }) => ({ wrong: checked, moved: {} }));
  on("map-of", "change", ({ value }) => ({ map: value }));
  on("equation", "change", ({ value }) => ({ equation: value }));
  on("strongest", "click", () => ({ capsule: null }));
  on("capsule", "input", ({ value }) => ({ capsule: wholeNumber(value, 0, page.network.I - 1) }));
}

function listenToMap(page) {
  const { network } = page;
  const [H, W] = network.image_shape;
  at("map").addEventListener("click", (event) => {
    const box = at("map").getBoundingClientRect();
    const [down, right] = [(event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width];
    const capsule = capsuleAt(down * H, right * W, network);
    if (capsule !== null) update(page, { capsule });
  });
  at("map").addEventListener("keydown", (event) => {
    if (!(event.key in STEPS)) return;
    event.preventDefault(); // the page would scroll
    const [right, down] = STEPS[event.key];
    const capsule = neighbourOf(lookAt(page).i, down, right, network);
    if (capsule !== null) update(page, { capsule });
  });
}

const page = start();
