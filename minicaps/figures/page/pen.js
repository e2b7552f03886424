// A canvas to draw on, with a mouse, a finger, a pen, or the keyboard: white ink on black.

"use strict";

const PEN_WIDTH = 0.075; // of the canvas's shorter side
const PEN_SIDE = 280; // pixels of its longer side
const STEPS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

// Calls changed(ink, [h, w]) with ink (h, w), 0 to 1, whenever something was drawn; returns what clears it.
function startPen(canvas, [H, W], changed) {
  const scale = PEN_SIDE / Math.max(H, W);
  [canvas.width, canvas.height] = [Math.max(1, Math.round(scale * W)), Math.max(1, Math.round(scale * H))];
  const paper = document.createElement("canvas"); // the ink alone, without the cursor
  [paper.width, paper.height] = [canvas.width, canvas.height];
  const pen = { paper, canvas, at: [canvas.width / 2, canvas.height / 2], down: false, seen: false };
  wipe(pen);
  const tell = () => changed(readInk(paper), [paper.height, paper.width]);
  listenToPointer(pen, tell);
  listenToKeys(pen, tell);
  return () => wipe(pen);
}

function wipe(pen) {
  const context = pen.paper.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "black";
  context.fillRect(0, 0, pen.paper.width, pen.paper.height);
  [context.strokeStyle, context.lineCap, context.lineJoin] = ["white", "round", "round"];
  context.lineWidth = PEN_WIDTH * Math.min(pen.paper.width, pen.paper.height);
  showPaper(pen);
}

function drawTo(pen, to) {
  const context = pen.paper.getContext("2d");
  context.beginPath();
  context.moveTo(...pen.at);
  context.lineTo(...to);
  context.stroke();
  pen.at = to;
  showPaper(pen);
}

function showPaper({ paper, canvas, at, down, seen }) {
  const context = canvas.getContext("2d");
  context.drawImage(paper, 0, 0);
  if (!seen) return;
  [context.strokeStyle, context.lineWidth] = ["#e67800", 3];
  context.beginPath();
  context.arc(...at, down ? 5 : 9, 0, 2 * Math.PI);
  context.stroke();
}

function listenToPointer(pen, tell) {
  const { canvas } = pen;
  let pointer = null; // the one that draws: a second finger is none
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * canvas.width,
      ((event.clientY - box.top) / box.height) * canvas.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button > 0) return;
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    pen.seen = false;
    pen.at = place(event);
    drawTo(pen, pen.at);
    tell();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    for (const each of event.getCoalescedEvents?.() ?? []) drawTo(pen, place(each));
    drawTo(pen, place(event));
    tell();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => {
      if (event.pointerId === pointer) pointer = null;
    });
  }
}

function listenToKeys(pen, tell) {
  const { canvas } = pen;
  const step = Math.max(canvas.width, canvas.height) / 28;
  canvas.addEventListener("keydown", (event) => {
    if (event.key !== " " && !(event.key in STEPS)) return;
    event.preventDefault(); // the page would scroll
    pen.seen = true;
    if (event.key === " ") pen.down = !pen.down;
    const [x, y] = STEPS[event.key] ?? [0, 0];
    const to = [clamp(pen.at[0] + step * x, 0, canvas.width), clamp(pen.at[1] + step * y, 0, canvas.height)];
    if (pen.down) drawTo(pen, to);
    pen.at = to;
    showPaper(pen);
    if (pen.down) tell();
  });
  canvas.addEventListener("focus", () => {
    pen.seen = canvas.matches(":focus-visible"); // with a mouse, the cursor is the mouse's
    showPaper(pen);
  });
  canvas.addEventListener("blur", () => {
    [pen.seen, pen.down] = [false, false];
    showPaper(pen);
  });
}

function readInk(canvas) {
  return greyOf(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data); // (h, w)
}
