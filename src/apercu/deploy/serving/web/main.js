// The page: what is chosen, what is asked, what is shown.

import { download, fitted, joined, pixelsOf, useHeat } from "./paint.js";
import { FORMATS, PROMISE, decode, example, explain, pngFile, served, useToken } from "./source.js";
import { percent, short, viewOf } from "./views.js";
import { start, stop } from "./webcam.js";

const MOST = 640;
const at = (id) => document.getElementById(id);
const dials = () => ({ opacity: Number(at("opacity").value), threshold: Number(at("level").value) });

let about = null;
let shown = null; // { image, frame, picture, record, answers, views: [first, second or null] }
let turn = 0; // answers to earlier questions are dropped

function say(words, wrong = false) {
  at("said").textContent = words;
  at("said").classList.remove("waiting");
  at("said").classList.toggle("wrong", wrong);
}

async function trying(work) {
  try {
    await work();
  } catch (error) {
    if (error.status === 401) {
      at("unlock").hidden = false;
      at("token").focus();
    }
    say(error.message, true);
  }
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);

// What an explainer that is downloaded says on the way.
function report({ step, received, total }) {
  const arrives = step === "download" && received < total;
  at("progress").hidden = !arrives;
  if (arrives) at("progress").value = received / total;
  say(arrives ? `Downloading the explainer, once: ${megabytes(received)} of ${megabytes(total)} MB` : "Starting the explainer …");
}

async function begin() {
  about = await served(report);
  at("unlock").hidden = true;
  const size = about.download ? megabytes(about.download) : null;
  say(size ? `The first picture downloads the explainer, ${size} MB, once.` : "");
  useHeat(about.heat);
  document.title = `apercu: ${about.name}`;
  at("served").textContent = `${about.name}: a ${about.explainer} explainer, ${about.classes.length} classes`;
  at("names").replaceChildren(...about.classes.map((name) => new Option(name, name)));
  at("cut").hidden = about.explainer !== "mask";
  const items = [];
  for (let number = 0; number < about.examples; number++) items.push(await exampleItem(number));
  at("examples").replaceChildren(...items);
}

async function exampleItem(number) {
  const blob = await example(number);
  const item = document.createElement("li");
  const button = document.createElement("button");
  const picture = document.createElement("img");
  picture.src = URL.createObjectURL(blob);
  picture.alt = `Example ${number + 1}`;
  button.append(picture);
  button.addEventListener("click", () => open(blob));
  item.append(button);
  return item;
}

// Explains a new image, whoever brought it, or another frame of it.
function open(blob, frame = 1) {
  halt();
  return trying(async () => {
    const mine = ++turn;
    if (about === null) await begin(); // asks for the token
    say("Looking …");
    const own = frame > 1 ? null : await createImageBitmap(blob).catch(() => null);
    const seen = own && pixelsOf(own, ...fitted(own, MOST));
    own?.close(); // a large one is large twice otherwise
    const many = about.explainer === "mask" ? Math.min(5, about.classes.length) : 1;
    const record = await explain(blob, { top: many, picture: seen === null, frame }).catch((error) => {
      if (mine === turn) forget();
      throw error;
    });
    if (mine !== turn) return;
    const sent = seen ? null : await decode(record.picture);
    const picture = seen ?? pixelsOf(sent, ...fitted(sent, MOST));
    const answers = new Map(record.answers.map((answer) => [answer.index, answer]));
    shown = { image: blob, frame, picture, record, answers, views: [null, null] };
    part("result");
    at("frames").hidden = record.frames < 2;
    at("frame").max = record.frames;
    at("frame").value = frame;
    at("count").textContent = `of ${record.frames}`;
    const reader = record.read_by === "classifier" ? "as the classifier sees it" : "as the explainer reads the classifier";
    at("reader").textContent = record.value === undefined ? reader : `value ${record.value.toPrecision(4)}, ${reader}`;
    await choose(record.answers[0].index, 0);
    say("");
    if (window.innerWidth < 832) at("result").scrollIntoView();
  });
}

// Shows a class, in the first place or beside it.
async function choose(index, place) {
  const mine = turn;
  if (!shown.answers.has(index)) {
    say("Looking …");
    const record = await explain(shown.image, { target: index, frame: shown.frame });
    if (mine !== turn) return;
    for (const answer of record.answers) shown.answers.set(answer.index, answer);
    say("");
  }
  const view = await viewOf(shown.answers.get(index), shown.picture);
  if (mine !== turn) return;
  const other = shown.views[1 - place];
  if (other?.answer.index === index) shown.views[1 - place] = null;
  if (place === 1 && shown.views[1]?.answer.index === index) shown.views[1] = null;
  else shown.views[place] = view;
  if (shown.views[0] === null) shown.views = [shown.views[1], null];
  at("views").replaceChildren(...shown.views.filter(Boolean).map(({ box }) => box));
  redraw();
  list();
}

function redraw() {
  at("opacity").nextElementSibling.textContent = dials().opacity.toFixed(2);
  at("level").nextElementSibling.textContent = dials().threshold ? dials().threshold.toFixed(2) : "soft";
  for (const view of shown?.views ?? []) view?.redraw(dials());
}

function list() {
  const named = new Map(shown.record.top.map((one) => [one.index, one]));
  for (const [index, answer] of shown.answers) if (!named.has(index)) named.set(index, answer);
  const seen = about.explainer === "mask" ? null : shown.record.top[0].index;
  const focused = document.activeElement?.dataset.key;
  at("classes").replaceChildren(...[...named.values()].map((one) => row(one, one.index === seen)));
  if (focused) document.querySelector(`[data-key="${focused}"]`)?.focus();
}

function row(one, seen) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.className = "class";
  button.dataset.key = `class-${one.index}`;
  const bar = document.createElement("i");
  bar.style.width = `${100 * one.probability}%`;
  const title = document.createElement("span");
  title.className = "title";
  const predicted = shown.record.predicted?.includes(one.class);
  title.textContent = seen ? `${short(one.class)} (seen)` : predicted ? `${short(one.class)} (predicted)` : short(one.class);
  title.title = one.class;
  const share = document.createElement("span");
  share.className = "share";
  share.textContent = percent(one.probability);
  button.append(bar, title, share);
  button.disabled = seen; // an image cannot be changed into what it is
  button.setAttribute("aria-pressed", shown.views[0]?.answer.index === one.index);
  button.addEventListener("click", () => trying(() => choose(one.index, 0)));
  const versus = document.createElement("button");
  versus.className = "versus";
  versus.dataset.key = `versus-${one.index}`;
  versus.textContent = "vs";
  versus.setAttribute("aria-label", `Compare with ${short(one.class)}`);
  versus.setAttribute("aria-pressed", shown.views[1]?.answer.index === one.index);
  versus.disabled = seen || shown.views[0]?.answer.index === one.index;
  versus.addEventListener("click", () => trying(() => choose(one.index, 1)));
  item.append(button, versus);
  return item;
}

// Shows one part of the page: "result", "webcam", or neither.
function part(name) {
  for (const id of ["result", "webcam"]) at(id).hidden = id !== name;
  at("dials").hidden = name === null;
  at("downloads").hidden = name !== "result";
  at("dial").hidden = name === null || about.explainer !== "mask";
}

// What is shown belongs to another image than the one that was brought.
function forget() {
  shown = null;
  part(null);
}

function halt() {
  stop();
  if (!at("webcam").hidden) part(null);
}

function watch() {
  turn++;
  say("");
  part("webcam");
  at("stop").focus();
  trying(() => start(dials, () => say(""))).then(halt);
}

function stem() {
  return short(shown.views[0].answer.class).replace(/[^\w]+/g, "-").toLowerCase();
}

at("pick").addEventListener("click", () => at("file").click());
at("photograph").addEventListener("click", () => at("camera").click());
at("live").addEventListener("click", watch);
at("stop").addEventListener("click", () => {
  halt();
  at("live").focus();
});
for (const id of ["file", "camera"]) {
  at(id).addEventListener("change", ({ target }) => {
    if (target.files.length) open(target.files[0]);
    target.value = "";
  });
}
at("frame").addEventListener("change", ({ target }) => {
  if (shown && target.validity.valid && target.value) open(shown.image, target.valueAsNumber);
});
for (const id of ["opacity", "level"]) at(id).addEventListener("input", redraw);
at("save").addEventListener("click", async () => {
  const canvases = shown.views.filter(Boolean).flatMap((view) => view.canvases);
  download(await joined(canvases), `${stem()}.png`);
});
at("raw").addEventListener("click", async () => {
  download(await pngFile(shown.views[0].answer.map.png), `${stem()}.map.png`);
});
at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const word = at("name").value.trim();
  const index = about.classes.findIndex((name) => name === word);
  if (!word || !shown) return;
  trying(async () => {
    const mine = turn;
    if (index < 0 || !shown.answers.has(index)) {
      const record = await explain(shown.image, { target: index < 0 ? word : index, frame: shown.frame });
      if (mine !== turn) return;
      shown.answers.set(record.answers[0].index, record.answers[0]);
      await choose(record.answers[0].index, 0);
    } else await choose(index, 0);
    at("name").value = "";
    say("");
  });
});
at("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(at("token").value);
  at("token").value = "";
  trying(begin);
});
document.addEventListener("paste", ({ clipboardData }) => {
  const file = [...clipboardData.files][0];
  if (file) open(file);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("choose").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" ? event.dataTransfer.files[0] : null;
    if (file) open(file);
  });
}
at("promise").textContent = PROMISE;
at("formats").textContent = `or drop one here, or paste it. ${FORMATS}`;
say("");
trying(begin);
