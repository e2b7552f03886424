// What is painted on canvases: images, couplings over an image, vectors in a plane.

"use strict";

const MAP_SIDE = 560; // pixels of the longer side of the couplings' canvas
const PLANE_SIDE = 480; // pixels
const HEAT = "230, 120, 0"; // of couplings and positive logits: seen on black and on white
const COLD = "40, 140, 230"; // of negative logits
const NICE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

// image (H, W, C), 0 to 1: three channels are red, green and blue, and the mean of any others is grey.
function paintImage(canvas, image, [H, W, C]) {
  [canvas.width, canvas.height] = [W, H];
  const pixels = new Uint8ClampedArray(H * W * 4).fill(255); // (H, W, 4)
  for (let k = 0; k < H * W; k++) {
    const own = image.subarray(k * C, (k + 1) * C); // (C,)
    for (let channel = 0; channel < 3; channel++) {
      pixels[4 * k + channel] = 255 * (C === 3 ? own[channel] : sum(own) / C);
    }
  }
  canvas.getContext("2d").putImageData(new ImageData(pixels, W, H), 0, 0);
}

// Where the lower capsule i stands: its rectangle on the image, in pixels of the image.
function rectangleOf(i, { conv, primary, types }) {
  const [type, position] = [i % types, Math.floor(i / types)];
  const columns = columnsOf(types);
  const rows = Math.ceil(types / columns);
  const at = [Math.floor(position / primary.grid[1]), position % primary.grid[1]];
  const [y, x] = at.map((index, axis) => {
    const distance = primary.stride[axis] * conv.stride[axis]; // between neighbours
    const seen = (primary.kernel[axis] - 1) * conv.stride[axis] + conv.kernel[axis]; // by one capsule
    return { start: index * distance + (seen - distance) / 2, size: distance };
  });
  return {
    top: y.start + (Math.floor(type / columns) * y.size) / rows,
    left: x.start + ((type % columns) * x.size) / columns,
    height: y.size / rows,
    width: x.size / columns,
  };
}

// In how many columns the types of one position stand: so that no cell stays empty, if that is not too wide.
function columnsOf(types) {
  const least = Math.ceil(Math.sqrt(types));
  for (let columns = least; columns <= 2 * least; columns++) if (types % columns === 0) return columns;
  return least;
}

// values (I,), from -most to most, over the image; the chosen capsule has a frame.
function paintMap(canvas, image, values, most, chosen, network) {
  const [H, W, C] = network.image_shape;
  const scale = MAP_SIDE / Math.max(H, W);
  const small = document.createElement("canvas");
  paintImage(small, image, [H, W, C]);
  [canvas.width, canvas.height] = [Math.round(scale * W), Math.round(scale * H)];
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  context.fillStyle = "rgba(0, 0, 0, 0.55)"; // so that the couplings stand out
  context.fillRect(0, 0, canvas.width, canvas.height);
  values.forEach((value, i) => {
    const { top, left, height, width } = rectangleOf(i, network);
    const depth = most > 0 ? Math.sqrt(Math.min(1, Math.abs(value) / most)) : 0; // small ones are seen, too
    context.fillStyle = `rgba(${value < 0 ? COLD : HEAT}, ${depth})`;
    context.fillRect(scale * left, scale * top, scale * width - 1, scale * height - 1);
  });
  frame(context, rectangleOf(chosen, network), scale);
}

function frame(context, { top, left, height, width }, scale) {
  for (const [colour, line] of [["black", 5], ["white", 2]]) {
    [context.strokeStyle, context.lineWidth] = [colour, line];
    context.strokeRect(scale * left, scale * top, scale * width - 1, scale * height - 1);
  }
}

// The capsule beside i on the map, some steps down and to the right, or null.
function neighbourOf(i, down, right, network) {
  const { top, left, height, width } = rectangleOf(i, network);
  for (const steps of [1, 2, 3]) { // not all of a position's cells may be taken
    const [y, x] = [top + (0.5 + steps * down) * height, left + (0.5 + steps * right) * width];
    const found = capsuleAt(y, x, network);
    if (found !== null) return found;
  }
  return null;
}

// The lower capsule whose rectangle holds a point of the image, or null.
function capsuleAt(y, x, network) {
  for (let i = 0; i < network.I; i++) {
    const { top, left, height, width } = rectangleOf(i, network);
    if (top <= y && y < top + height && left <= x && x < left + width) return i;
  }
  return null;
}

// votes (I, 2) as dots, as large as their couplings c (I,); s and v (2,) as arrows; returns by how much the
// votes, which are shorter, were drawn longer.
function paintPlane(canvas, { votes, c, s, v, chosen }) {
  [canvas.width, canvas.height] = [PLANE_SIDE, PLANE_SIDE];
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  const colourOf = (name) => style.getPropertyValue(name).trim();
  const [ink, faint, accent] = ["--ink", "--line", "--accent"].map(colourOf);
  const reach = Math.max(1.05, Math.hypot(...s));
  const longest = largest(votes.map((vote) => Math.hypot(...vote)));
  const factor = NICE.filter((each) => each * longest <= reach).pop() ?? 1;
  const unit = (0.4 * PLANE_SIDE) / Math.max(reach, factor * longest);
  const place = ([x, y]) => [PLANE_SIDE / 2 + unit * x, PLANE_SIDE / 2 - unit * y];
  paintAxes(context, unit, faint);
  const heaviest = largest(c);
  votes.forEach((vote, i) => {
    const radius = 2 + 10 * Math.sqrt(c[i] / heaviest);
    paintDot(context, place(vote.map((each) => factor * each)), radius, accent, i === chosen ? ink : null);
  });
  paintArrow(context, place([0, 0]), place(s), "s", ink, [8, 6]);
  paintArrow(context, place([0, 0]), place(v), "v", ink, []);
  return factor;
}

function paintAxes(context, unit, colour) {
  const middle = PLANE_SIDE / 2;
  [context.strokeStyle, context.lineWidth] = [colour, 2];
  context.beginPath();
  context.moveTo(0, middle);
  context.lineTo(PLANE_SIDE, middle);
  context.moveTo(middle, 0);
  context.lineTo(middle, PLANE_SIDE);
  context.stroke();
  context.beginPath();
  context.arc(middle, middle, unit, 0, 2 * Math.PI); // length 1, which no v reaches
  context.stroke();
}

function paintDot(context, [x, y], radius, colour, ring) {
  context.globalAlpha = 0.45;
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
  context.globalAlpha = 1;
  if (!ring) return;
  [context.strokeStyle, context.lineWidth] = [ring, 3];
  context.stroke();
}

function paintArrow(context, from, to, name, colour, dashes) {
  [context.strokeStyle, context.fillStyle, context.lineWidth] = [colour, colour, 4];
  context.setLineDash(dashes);
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
  context.setLineDash([]);
  paintDot(context, to, 6, colour, colour);
  context.font = "italic 32px serif";
  const beside = to[0] < from[0] ? -26 : 12;
  context.fillText(name, to[0] + beside, to[1] - 8);
}
