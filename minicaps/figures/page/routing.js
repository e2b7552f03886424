// The parts of the page that show the routing: its iterations, couplings and votes, and the arithmetic.

"use strict";

const EVEN = "R = 1: v is the sum of all votes with the first couplings, squashed.";
const WRONG = "The wrong softmax: the couplings to a class add up to 1 over the lower capsules, and no class "
  + "competes with another.";

function showRouting(view, page) {
  showIteration(view, page);
  showMap(view, page);
  showPlane(view, page);
  showCourse(view, page);
  showShares(view, page);
  at("equation").value = view.equation;
  at("numbers").textContent = arithmeticOf(view, page.network);
}

function showIteration(view, { network: { R, J }, names }) {
  const { r, even, wrong } = view;
  at("iteration").value = r;
  at("iteration").disabled = even;
  at("iteration-value").textContent = `${r} (${R === r ? "as" : R} in training)`;
  [at("even").checked, at("wrong").checked] = [even, wrong];
  at("change").textContent = changeText(view, names, J);
  at("switches").textContent = [even ? EVEN : "", wrong ? WRONG : ""].join(" ");
}

function showMap({ image, course, shown, i, j, map }, { network, names }) {
  const values = columnTo(j, shown[map], network.J); // (I,)
  const most = largest(course.map((each) => largest(columnTo(j, each[map], network.J).map(Math.abs))));
  paintMap(at("map"), image, values, most, i, network);
  at("map-of").value = map;
  const best = indexOfLargest(values);
  const what = map === "c" ? `coupling to ${names[j]}` : `logit for ${names[j]} (orange above 0, blue below)`;
  const [low, mean, high] = [smallest(values), sum(values) / values.length, values[best]].map(numberText);
  at("map-text").textContent = `Each lower capsule, where it stands, and its ${what}: from ${low} to `
    + `${high}, on average ${mean}. The largest is that of capsule ${best} (${placeText(best, network)}).`;
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
  const drawn = factor > 1 ? `, drawn ${factor} times as long` : "";
  const text = `Each dot is the vote û of a lower capsule for ${names[j]}${drawn}, the larger the larger its `
    + `coupling. Their sum s (dashed) is ${norm(s).toFixed(2)} long, and v, which is s squashed, `
    + `${norm(v).toFixed(2)}; the circle is length 1. These two directions hold `
    + `${Math.round(100 * share)} % of the votes' squared lengths.`;
  at("plane-text").textContent = text;
  describe("plane", text);
}

function showCourse({ lengths, r, j }, { names }) {
  const titles = lengths.map((_, k) => `${k + 1}${k + 1 === r ? " (shown)" : ""}`);
  const rows = foremost(lengths[r - 1], j).map((k) => (
    tableRow(names[k], k === j, ...lengths.map((each) => each[k].toFixed(3)))
  ));
  const caption = make("caption", {}, "Length after iteration");
  at("course").replaceChildren(caption, tableHead("Class", ...titles), ...rows);
}

// Logits, couplings and agreements of the chosen lower capsule.
function showShares({ i, j, r, shown, u_hat }, { network, names }) {
  const { J, E } = network;
  if (document.activeElement !== at("capsule")) at("capsule").value = i;
  at("capsule-text").textContent = `Capsule ${i} stands at ${placeText(i, network)}. After iteration ${r}, `
    + `with class j = ${names[j]}:`;
  const rows = foremost(shown.c.subarray(i * J, (i + 1) * J), j).map((k) => {
    const agreement = dot(u_hat, (i * J + k) * E, shown.v, k * E, E);
    const numbers = [shown.b[i * J + k], shown.c[i * J + k], agreement];
    return tableRow(names[k], k === j, ...numbers.map(numberText));
  });
  at("shares").replaceChildren(tableHead("Class", "Logit b", "Coupling c", "Agreement û · v"), ...rows);
}
