// The parts of the page that show the image, the class capsules and the decoder.

"use strict";

function show(page) {
  const view = lookAt(page);
  showImage(view, page);
  showLengths(view, page);
  if (page.network.decoder) showDecoder(view, page);
  showRouting(view, page);
}

function showImage({ own, image, number }, { network, names, labels, numbers }) {
  paintImage(at("seen"), image, network.image_shape);
  const test = `test image ${numbers[number]}, of class ${names[labels[number]]}`;
  describe("seen", `What the network sees: ${own ? "a drawing or picture of yours" : test}`);
  at("images").querySelectorAll("button").forEach((button, n) => {
    button.setAttribute("aria-pressed", String(!own && n === number));
  });
  at("not-shared").textContent = own && !isShared(network)
    ? "It does not hold your picture, which is too large for it." : "";
}

function showLengths({ own, image, lengths, r, j, longest, chosen, number }, { names, labels }) {
  const [now, first] = [lengths[r - 1], lengths[0]]; // (J,), (J,)
  const label = labels[number];
  const verdict = label === longest ? "This is the label." : `The label is ${names[label]}.`;
  const dark = largest(image) === 0 ? "The image is black. " : "";
  at("answer").textContent = `${dark}The longest capsule is that of ${names[longest]}, `
    + `with ${now[longest].toFixed(2)}. ${own ? "" : verdict}`;
  const shown = foremost(now, j);
  at("bars-note").textContent = shown.length < now.length ? `, of ${now.length} classes the longest` : "";
  at("chosen").value = chosen ?? "longest";
  at("lengths").replaceChildren(...shown.map((k) => (
    tableRow(names[k], k === j, makeBar(now[k], first[k]), now[k].toFixed(3))
  )));
}

// A bar for a length, 0 to 1, with a mark at that after the first iteration.
function makeBar(length, first) {
  const bar = make("div", { className: "bar" }, make("div"), make("i"));
  bar.children[0].style.width = `${100 * length}%`;
  bar.children[1].style.left = `calc(${100 * first}% - 1px)`;
  return bar;
}

function showDecoder({ image, shown, j, moved }, { network, names, ranges }) {
  const { E, image_shape } = network;
  const v = shown.v.slice(j * E, (j + 1) * E); // (E,)
  const changed = v.map((value, e) => moved[e] ?? value); // (E,)
  const reconstruction = decode(v, j, network); // (H, W, C)
  paintImage(at("reconstruction"), reconstruction, image_shape);
  paintImage(at("moved"), decode(changed, j, network), image_shape);
  const error = sum(reconstruction.map((pixel, k) => (pixel - image[k]) ** 2)).toFixed(1);
  at("decoder-text").textContent = `The capsule of ${names[j]} reconstructs the image with a squared error `
    + `of ${error}; with the sliders it is ${norm(changed).toFixed(2)} long.`;
  describe("reconstruction", `Reconstruction from the capsule of ${names[j]}; squared error ${error}`);
  describe("moved", `What the decoder makes of the capsule of ${names[j]} with the sliders`);
  showSliders(v, changed, ranges[j]);
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
