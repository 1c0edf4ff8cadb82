// What is displayed of one class: a mask's evidence, kept and removed, or a pair of counterparts.

import { short } from "./names.js";
import { paint, paintScale, show, stretched, values } from "./paint.js";
import { decode } from "./source.js";
import { NONE, describeDoubt, describeFlip, describePlace, percent } from "./words.js";

export { short } from "./names.js";

const MASK = {
  overlay: ["Evidence", (name) => `bright where the picture speaks for ${name}.`],
  kept: ["Kept", (name) => `the evidence alone: it should suffice to recognise ${name}.`],
  removed: ["Removed", (name) => `all but the evidence: ${name} should no longer be recognised.`],
  original: ["Original", () => "the picture as it is."],
};

export function element(tag, className, ...content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...content);
  return node;
}

function canvasFor(label) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

// One class on one picture: its panels, and what redraws them as the dials are turned; `sign` stands
// before its probability.
export async function viewOf(answer, picture, sign) {
  const map = values(await decode(answer.map.png), picture.width, picture.height);
  const highest = map.reduce((most, value) => Math.max(most, value), 0) / 255;
  return answer.similar ? pairView(answer, picture, map) : maskView(answer, picture, map, highest, sign);
}

function maskView(answer, picture, map, strongest, sign) {
  const name = short(answer.class, answer.index);
  const nothing = strongest < NONE;
  const doubt = describeDoubt(strongest, name);
  const place = describePlace(map, picture.width, picture.height);
  const keys = nothing ? ["original"] : Object.keys(MASK);
  const panels = keys.map((key) => {
    const [title, sentence] = MASK[key];
    const label = key === "original" ? "the picture itself" : `${title} for ${name}${place && `, ${place}`}`;
    return { key, title, sentence: sentence(name), canvas: canvasFor(label) };
  });
  const scales = [];
  const redraw = (dials) => {
    for (const { key, canvas } of panels) paint(canvas, picture, map, { ...dials, view: key });
    for (const scale of scales) paintScale(scale, dials.threshold);
  };
  const summary = doubt || `Evidence for ${name}: ${place || "only where it is strongest"}.`;
  return { answer, name, share: percent(answer.probability, sign), strongest, doubt, summary, panels, mains: (key) => [nothing ? "original" : key], scales, redraw };
}

async function pairView(answer, picture, map) {
  const [from, to] = [short(answer.seen), short(answer.class, answer.index)];
  const shares = answer.probabilities;
  const share = (at) => (shares ? ` (${percent(shares.at(at))} ${to})` : "");
  const most = answer.largest_change;
  const panels = [
    { key: "similar", title: "Similar", sentence: `redrawn, and still ${from}${share(0)}.`, image: answer.similar },
    { key: "adversarial", title: "Changed", sentence: `redrawn to look like ${to}${share(-1)}.`, image: answer.adversarial },
    { key: "difference", title: "Difference", sentence: `bright where these two differ; at most ${most.toFixed(4)}, on average ${answer.change.toFixed(4)}, of 1.` },
    { key: "original", title: "Original", sentence: "the picture as it is." },
  ].map((panel) => ({ ...panel, canvas: canvasFor(`${panel.title} picture: ${panel.sentence}`) }));
  for (const { canvas, image } of panels) if (image) show(canvas, await decode(image));
  const scales = [];
  const strong = stretched(map);
  const redraw = (dials) => {
    paint(panels[2].canvas, picture, strong, { ...dials, view: "overlay", threshold: 0 });
    paint(panels[3].canvas, picture, strong, { view: "original" });
    for (const scale of scales) paintScale(scale, 0);
  };
  const summary = describeFlip(answer);
  const strip = await stripOf(answer, to);
  return { answer, name: `${from} → ${to}`, strongest: 1, doubt: "", summary, panels, mains: () => ["similar", "adversarial"], strip, most, scales, redraw };
}

async function stripOf(answer, name) {
  const row = element("div");
  for (const [step, text] of answer.strip.entries()) {
    const canvas = canvasFor(`step ${step + 1} of ${answer.strip.length}`);
    show(canvas, await decode(text));
    row.append(element("span", "", canvas, answer.probabilities ? percent(answer.probabilities[step]) : ""));
  }
  const words = answer.probabilities ? `The way from one to the other, with the probability of ${name} at each step.` : "The way from one to the other.";
  return element("figure", "strip", row, element("figcaption", "", words));
}

// Puts one class or two onto the page: `key` is displayed large, the others below or beside it.
export function arrange(views, key, enlarge) {
  const large = views.map((view) => largeBox(view, key));
  const small = views.map((view) => smallBox(view, key, enlarge));
  document.getElementById("views").replaceChildren(...large);
  document.getElementById("others").replaceChildren(...small);
  document.getElementById("result").classList.toggle("two", views.length > 1);
  document.getElementById("result").classList.toggle("pair", views[0].strip !== undefined);
  document.getElementById("others").hidden = views.every((view) => view.panels.length === 1);
}

function largeBox(view, key) {
  view.scales.length = 0;
  const heading = element("div", "heading", element("h2", "", view.name));
  if (view.answer.similar === undefined) heading.append(element("span", "share", view.share));
  const mains = view.mains(key).map((name) => view.panels.find((panel) => panel.key === name));
  const figures = mains.map((panel) => figureOf(view, panel, true));
  const box = element("article", "view", heading, element("div", "mains", ...figures));
  if (view.answer.similar) box.append(element("p", view.answer.flipped === false || view.answer.kept === false ? "doubt" : "", view.summary));
  return box;
}

function smallBox(view, key, enlarge) {
  const mains = view.mains(key);
  const rest = view.panels.filter((panel) => !mains.includes(panel.key));
  const box = element("div", "panels", ...rest.map((panel) => figureOf(view, panel, false, view.strip ? null : enlarge)));
  if (view.strip) box.append(view.strip);
  return box;
}

function figureOf(view, panel, large, enlarge = null) {
  const words = element("figcaption", "", element("strong", "", panel.title), `: ${panel.sentence}`);
  if (large && view.doubt) words.replaceChildren(element("span", "doubt", view.doubt));
  if (panel.key === "overlay" || panel.key === "difference") {
    const scale = canvasFor("colours of the evidence, from none to full");
    view.scales.push(scale);
    const [least, most] = view.most === undefined ? ["0, none", "1, full"] : ["0", view.most.toFixed(4)];
    if (large || view.most !== undefined) words.prepend(element("span", "legend", least, scale, most));
  }
  let picture = panel.canvas;
  if (enlarge) {
    picture = element("button", "enlarge", panel.canvas);
    picture.dataset.key = `enlarge-${panel.key}`;
    picture.title = "Display it large";
    picture.setAttribute("aria-label", `${panel.title}: display it large`);
    picture.addEventListener("click", () => enlarge(panel.key));
  }
  return element("figure", panel.key, picture, words);
}
