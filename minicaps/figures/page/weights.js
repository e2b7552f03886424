// What the page carries: float16 weights and 8-bit images, in base64.

"use strict";

function decodeBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length); // (N,)
  for (let k = 0; k < bytes.length; k++) bytes[k] = binary.charCodeAt(k);
  return bytes;
}

function encodeBase64(bytes) {
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}

// A half-precision number of its 16 bits, by hand: older browsers have no Float16Array.
function readHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function readHalves(text) {
  const bytes = decodeBase64(text);
  const numbers = new Float32Array(bytes.length / 2); // (N,)
  for (let k = 0; k < numbers.length; k++) numbers[k] = readHalf(bytes[2 * k] | (bytes[2 * k + 1] << 8));
  return numbers;
}

// Sizes and options as the network's configuration has them, and its weights by name.
function readNetwork(description, texts) {
  const params = {};
  for (const [name, text] of Object.entries(texts)) params[name] = readHalves(text);
  const [P, Q] = description.primary.grid;
  return { ...description, I: P * Q * description.types, params };
}

// Images (N, H, W, C), 0 to 1.
function readImages(text, [H, W, C]) {
  const pixels = toFloat(decodeBase64(text)); // (N·H·W·C,)
  const size = H * W * C;
  return Array.from({ length: pixels.length / size }, (_, n) => pixels.subarray(n * size, (n + 1) * size));
}

function toFloat(bytes) {
  return Float32Array.from(bytes, (byte) => byte / 255);
}

function toBytes(image) {
  return Uint8Array.from(image, (pixel) => Math.round(255 * clamp(pixel, 0, 1)));
}
