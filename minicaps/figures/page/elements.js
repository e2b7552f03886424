// The elements of the document. Text stays text, whatever it holds: no name of a class becomes HTML.

"use strict";

function at(id) {
  return document.getElementById(id);
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function tableHead(...titles) {
  return make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)));
}

function tableRow(title, isChosen, ...cells) {
  const row = make("tr", { className: isChosen ? "chosen" : "" }, make("th", { scope: "row" }, title));
  row.append(...cells.map((cell) => make("td", {}, cell)));
  return row;
}

// What a screen reader says of an element.
function describe(id, text) {
  at(id).setAttribute("aria-label", text);
}
