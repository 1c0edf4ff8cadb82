// What is shown of one class: a mask's overlay, kept and removed, or a pair of counterparts.

import { paint, paintScale, show, stretched, values } from "./paint.js";
import { decode } from "./source.js";

const MASK = [
  ["overlay", "evidence", "evidence: bright where the picture speaks for this class"],
  ["kept", "kept", "kept: only what speaks for this class"],
  ["removed", "removed", "removed: all but what speaks for this class"],
  ["original", "original", "the picture itself"],
];
const LITTLE = 0.5; // of the strongest evidence that a map may hold

function figure(caption) {
  const box = document.createElement("figure");
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  const words = document.createElement("figcaption");
  words.textContent = caption;
  box.append(canvas, words);
  return { box, canvas, words };
}

export const short = (name) => name.split(",")[0];

export const percent = (share) => (share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`);

// One class on one picture; redraw() follows the dials.
export async function viewOf(answer, picture) {
  const box = document.createElement("div");
  box.className = "views";
  const title = document.createElement("h2");
  const grid = document.createElement("div");
  box.append(title, grid);
  const raw = await decode(answer.map.png);
  const map = values(raw, picture.width, picture.height);
  return answer.similar ? pair(answer, picture, { box, title, grid, map }) : mask(answer, picture, { box, title, grid, map });
}

function mask(answer, picture, { box, title, grid, map }) {
  title.textContent = short(answer.class);
  const highest = map.reduce((most, value) => Math.max(most, value), 0) / 255;
  if (highest < LITTLE) grid.before(doubt(highest));
  const drawn = MASK.map(([view, name, caption]) => {
    const made = figure(caption);
    made.box.className = view;
    made.canvas.setAttribute("aria-label", view === "original" ? name : `${name} for ${short(answer.class)}`);
    if (view === "overlay") made.words.append(legend());
    grid.append(made.box);
    return { view, canvas: made.canvas };
  });
  const redraw = (dials) => {
    for (const { view, canvas } of drawn) paint(canvas, picture, map, { ...dials, view });
  };
  return { box, redraw, canvases: drawn.map(({ canvas }) => canvas), answer };
}

// What is said of a map without strong evidence.
function doubt(highest) {
  const words = document.createElement("p");
  words.className = "doubt";
  const much = highest < LITTLE / 5 ? "Nothing" : "Little";
  words.textContent = `${much} here speaks for this class: the strongest evidence is ${highest.toFixed(2)}, of at most 1.`;
  return words;
}

// The colours of evidence, from none to full.
function legend() {
  const box = document.createElement("span");
  box.className = "legend";
  const scale = document.createElement("canvas");
  scale.setAttribute("role", "img");
  scale.setAttribute("aria-label", "colours of the evidence, from none to full");
  paintScale(scale);
  box.append("none ", scale, " full");
  return box;
}

async function pair(answer, picture, { box, title, grid, map }) {
  title.textContent = `from ${short(answer.seen)} to ${short(answer.class)}`;
  const shares = answer.probabilities;
  const canvases = [];
  for (const [key, caption] of [["similar", "similar"], ["adversarial", "adversarial"]]) {
    const made = figure(shares ? `${caption}: ${percent(shares.at(key === "similar" ? 0 : -1))}` : caption);
    made.canvas.setAttribute("aria-label", `${caption} image for ${short(answer.class)}`);
    show(made.canvas, await decode(answer[key]));
    grid.append(made.box);
    canvases.push(made.canvas);
  }
  const change = figure(`where they differ, on average ${answer.change.toFixed(3)}`);
  change.canvas.setAttribute("aria-label", `difference for ${short(answer.class)}`);
  grid.append(change.box);
  grid.append(await strip(answer, shares));
  const strong = stretched(map);
  const redraw = (dials) => paint(change.canvas, picture, strong, { ...dials, view: "overlay" });
  return { box, redraw, canvases: [...canvases, change.canvas], answer };
}

async function strip(answer, shares) {
  const box = document.createElement("figure");
  box.className = "strip";
  const row = document.createElement("div");
  for (const [step, text] of answer.strip.entries()) {
    const cell = document.createElement("span");
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `step ${step + 1} of ${answer.strip.length}`);
    show(canvas, await decode(text));
    cell.append(canvas, shares ? percent(shares[step]) : "");
    row.append(cell);
  }
  const words = document.createElement("figcaption");
  words.textContent = shares ? `the way there, with the probability of ${short(answer.class)}` : "the way there";
  box.append(row, words);
  return box;
}
