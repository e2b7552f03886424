// A drawing becomes an image as the network learnt them. Ink is (h, w), 0 to 1, light on black.

"use strict";

const BOX = 20 / 28; // of the side of an image, which MNIST's digits fill

// Cropped to the ink, its longer side 20 of 28 pixels, its centre of mass in the middle: (H, W).
function likeMnist(ink, [h, w], [H, W]) {
  const image = new Float32Array(H * W); // (H, W)
  const box = boundingBox(ink, [h, w]);
  if (!box) return image;
  const scale = BOX * Math.min(H / box.rows, W / box.columns);
  const rows = Math.max(1, Math.round(scale * box.rows));
  const columns = Math.max(1, Math.round(scale * box.columns));
  const small = resize(crop(ink, w, box), [box.rows, box.columns], [rows, columns]); // (rows, columns)
  const [down, right] = centreOfMass(small, columns);
  const top = clamp(Math.round(H / 2 - down), 0, H - rows);
  const left = clamp(Math.round(W / 2 - right), 0, W - columns);
  const most = largest(small);
  small.forEach((value, k) => {
    image[(top + Math.floor(k / columns)) * W + left + (k % columns)] = value / most;
  });
  return image;
}

function boundingBox(ink, [h, w]) {
  let [top, left, bottom, right] = [h, w, -1, -1];
  ink.forEach((value, k) => {
    if (!(value > 0)) return;
    const [row, column] = [Math.floor(k / w), k % w];
    [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
    [left, right] = [Math.min(left, column), Math.max(right, column)];
  });
  return bottom < 0 ? null : { top, left, rows: bottom - top + 1, columns: right - left + 1 };
}

function crop(x, w, { top, left, rows, columns }) {
  const part = new Float32Array(rows * columns); // (rows, columns)
  for (let row = 0; row < rows; row++) {
    const start = (top + row) * w + left;
    part.set(x.subarray(start, start + columns), row * columns);
  }
  return part;
}

// Every new pixel is the mean of the area that it covers: x (h, w) -> (rows, columns).
function resize(x, [h, w], [rows, columns]) {
  const down = spans(h, rows);
  const across = spans(w, columns);
  const y = new Float32Array(rows * columns); // (rows, columns)
  down.forEach((span, row) => across.forEach((other, column) => {
    let total = 0;
    for (const [k, high] of span) for (const [m, wide] of other) total += high * wide * x[k * w + m];
    y[row * columns + column] = total;
  }));
  return y;
}

// Of each of `count` equal parts of `length` pixels: which pixels it covers, and their shares of it.
function spans(length, count) {
  return Array.from({ length: count }, (_, part) => {
    const [from, to] = [(part * length) / count, ((part + 1) * length) / count];
    const covered = [];
    for (let k = Math.floor(from); k < to && k < length; k++) {
      covered.push([k, (Math.min(to, k + 1) - Math.max(from, k)) / (to - from)]);
    }
    return covered;
  });
}

function centreOfMass(x, columns) {
  let [mass, down, right] = [0, 0, 0];
  x.forEach((value, k) => {
    mass += value;
    down += value * Math.floor(k / columns);
    right += value * (k % columns);
  });
  return [down / mass, right / mass];
}

// One grey image (H, W) in all channels: (H, W, C).
function inChannels(grey, C) {
  return Float32Array.from({ length: grey.length * C }, (_, k) => grey[Math.floor(k / C)]);
}

// The grey (N,), 0 to 1, of a canvas's pixels (N, 4).
function greyOf(pixels) {
  return Float32Array.from({ length: pixels.length / 4 }, (_, k) => (
    (0.299 * pixels[4 * k] + 0.587 * pixels[4 * k + 1] + 0.114 * pixels[4 * k + 2]) / 255
  ));
}
