// Of lists of numbers: their sum, their ends, and how they are written.

"use strict";

function sum(values) {
  let total = 0;
  for (const value of values) total += value;
  return total;
}

function largest(values) {
  let most = -Infinity;
  for (const value of values) most = value > most ? value : most;
  return most;
}

function smallest(values) {
  let least = Infinity;
  for (const value of values) least = value < least ? value : least;
  return least;
}

function indexOfLargest(values) {
  return values.indexOf(largest(values));
}

function falling(values) {
  return [...values].sort((one, other) => other - one);
}

function clamp(value, least, most) {
  return Math.min(Math.max(value, least), most);
}

function numberText(x) {
  const size = Math.abs(x);
  const text = size >= 1e5 || (size > 0 && size < 0.0005) ? x.toExponential(1) : x.toFixed(3);
  return text.replaceAll("-", "−");
}

function vectorText(x) {
  return `[${Array.from(x, numberText).join(", ")}]`;
}
