// A picture from a file becomes an image, or ink as if it had been drawn.

"use strict";

const FAINT = 0.3; // of the darkest ink: what is fainter is paper

// The ink of a picture, its size, and what it looks like scaled to fit (H, W, C); null if it is none.
async function readPicture(file, [H, W, C]) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, PEN_SIDE / Math.max(bitmap.width, bitmap.height));
    const size = [bitmap.height, bitmap.width].map((side) => Math.max(1, Math.round(scale * side))); // h, w
    const ink = inkOf(greyOf(pixelsOf(bitmap, size)), size); // (h, w)
    return { ink, size, fit: () => channelsOf(pixelsOf(bitmap, [H, W]), C) };
  } catch {
    return null;
  }
}

// A picture scaled to fit (h, w) and centred, the rest black: (h, w, 4).
function pixelsOf(bitmap, [h, w]) {
  const canvas = make("canvas", { width: w, height: h });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const scale = Math.min(h / bitmap.height, w / bitmap.width);
  const [wide, high] = [scale * bitmap.width, scale * bitmap.height];
  const place = [(w - wide) / 2, (h - high) / 2, wide, high];
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, ...place);
  const paper = paperOf(context.getImageData(0, 0, w, h).data);
  context.globalCompositeOperation = "destination-over"; // below what is there
  for (const [colour, part] of [[paper, place], ["black", [0, 0, w, h]]]) {
    context.fillStyle = colour;
    context.fillRect(...part);
  }
  return context.getImageData(0, 0, w, h).data;
}

// The paper below transparent pixels (N, 4): white for a dark drawing, black for a light one.
function paperOf(pixels) {
  let [seen, light] = [0, 0];
  greyOf(pixels).forEach((grey, k) => {
    seen += pixels[4 * k + 3];
    light += pixels[4 * k + 3] * grey;
  });
  return light < 0.5 * seen ? "white" : "black";
}

// What stands out from the paper, which is taken to be as even as the border says: grey (h, w) -> ink (h, w).
function inkOf(grey, [h, w]) {
  const border = grey.filter((_, k) => k < w || k >= (h - 1) * w || k % w === 0 || k % w === w - 1).sort();
  const paper = border[Math.floor(border.length / 2)];
  const ink = grey.map((value) => Math.max(0, paper > 0.5 ? paper - value : value - paper)); // (h, w)
  const most = largest(ink);
  return ink.map((value) => (value > FAINT * most ? value / most : 0));
}

// A canvas's pixels (H, W, 4) in the network's channels: (H, W, C).
function channelsOf(pixels, C) {
  if (C !== 3) return inChannels(greyOf(pixels), C);
  const size = (pixels.length / 4) * 3;
  return Float32Array.from({ length: size }, (_, k) => pixels[4 * Math.floor(k / 3) + (k % 3)] / 255);
}
