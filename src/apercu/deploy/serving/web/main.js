// The page: which picture is chosen, what is requested for it, and what is displayed.

import { CASES, showCases } from "./cases.js";
import { listClasses, offer, searchClass } from "./classes.js";
import { inspect, measure, refusal } from "./files.js";
import { FEW, distinguish } from "./names.js";
import { download, fitted, joined, pixelsOf, show, useHeat } from "./paint.js";
import { FORMATS, PROMISE, READER, canShow, decode, example, exampleRecord, explain, pngFile, served, useToken } from "./source.js";
import { arrange, element, short, viewOf } from "./views.js";
import { describeTrust, describeVerdict, signOf } from "./words.js";
import { start, stop } from "./webcam.js";

const LONGEST = 640; // pixels of a picture's longer side, as it is displayed
const LISTED = 6; // classes in the list, where there are many
const PATIENCE = 200; // milliseconds until a picture is displayed without its explanation
const at = (id) => document.getElementById(id);
const dials = () => ({ opacity: Number(at("opacity").value), threshold: Number(at("level").value) });

const loading = setTimeout(() => say("Loading …"), PATIENCE);
let about = null;
let current = null; // { image, frame, picture, record, answers, views, chosen: [first, second or null] }
let panel = "overlay"; // what of a mask is displayed large
let previewed = null; // the class below the pointer
let turn = 0; // answers to earlier questions are dropped
const isMask = () => !["counterpart", "latent"].includes(about.explainer); // a mask, or the map of a method

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
    at("progress").hidden = true;
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

// Learns of the explainer and lists the examples; the first of them is displayed where no other
// picture is.
async function begin(isFirst = true) {
  const mine = turn; // a picture that is brought meanwhile has the line for itself
  about = await served((step) => mine === turn && report(step));
  at("unlock").hidden = true;
  const size = about.download ? megabytes(about.download) : null;
  at("size").textContent = size ? `The first picture of your own downloads the explainer (${size} MB), once.` : "";
  clearTimeout(loading);
  if (mine === turn) say("");
  useHeat(about.heat);
  distinguish(about.classes);
  document.title = `apercu: ${about.name}`;
  at("served").textContent = `Explainer “${about.name}”, ${about.classes.length} classes.`;
  at("names").replaceChildren(...about.classes.map((name) => new Option(name, name)));
  at("cut").hidden = !isMask();
  if (about.method) at("dial").textContent = "Hides evidence below this fraction of the strongest.";
  at("ask").textContent = isMask() ? "What speaks for …" : "What would change it into …";
  at("how").textContent = isMask() ? "Point at one, or tap it; “vs” puts two side by side." : "Choose a class; “vs” puts two side by side.";
  const blobs = await Promise.all(Array.from({ length: about.examples }, (_, number) => example(number)));
  at("examples").replaceChildren(...blobs.map(exampleItem));
  at("tries").hidden = blobs.length === 0;
  if (about.labelling && isFirst) return label();
  if (blobs.length && isFirst && mine === turn) openExample(blobs[0], 0);
}

// Labels the images of the server's folder; then no other picture can be brought.
async function label() {
  at("choose").hidden = true;
  const { beginLabelling } = await import("./label.js");
  return beginLabelling({ open: openToLabel, say, trying });
}

function openToLabel(file, displayed) {
  if (file) return open(file, { displayed });
  turn++;
  forget();
}

function exampleItem(blob, number) {
  const picture = document.createElement("img");
  picture.src = URL.createObjectURL(blob);
  const name = about.example_files?.[number].split(".")[0];
  picture.alt = name && !/^\d+$/.test(name) ? `Example: ${name}` : `Example ${number + 1}`;
  const button = element("button", "", picture);
  button.dataset.key = `example-${number}`;
  button.addEventListener("click", () => openExample(blob, number));
  return element("li", "", button);
}

const openExample = (blob, number) => open(blob, { record: exampleRecord(number) });

// Explains what somebody brought: the first of several files.
function bring(files) {
  if (about?.labelling) return say("Images of the folder are labelled here; other pictures need a server without --label.", true);
  const after = files.length > 1 ? `${files.length} files were brought; this is ${files[0].name}. Bring them one by one.` : "";
  return open(files[0], { after });
}

// Explains a new picture, or another frame of it; `record` resolves to its explanation, if there is one.
function open(image, { frame = 1, record: ready = null, after = "", displayed = () => {} } = {}) {
  halt();
  const mine = ++turn;
  at("work").setAttribute("aria-busy", "true");
  const timers = [setTimeout(say, PATIENCE, "Looking …")];
  return trying(async () => {
    try {
      if (about === null) await begin(false); // asks for the token
      const file = await inspect(image);
      const size = await measure(image);
      const picture = size && canShow(size) && frame === 1 ? await read(image) : null;
      if (mine !== turn) return;
      if (picture) timers.push(setTimeout(() => mine === turn && place(picture), PATIENCE));
      const record = (await ready) ?? (await explain(image, { top: count(), picture: picture === null, frame, size, ...(about.cases ? { cases: CASES } : {}) }).catch((error) => {
        const unread = error.unread || error.message.startsWith("image: not an image");
        throw unread ? new Error(refusal(file, READER)) : error;
      }));
      if (mine !== turn) return;
      timers.forEach(clearTimeout);
      await display(image, frame, picture ?? (await draw(await decode(record.picture))), record);
      if (mine !== turn) return;
      at("work").setAttribute("aria-busy", "false");
      displayed(record);
      say(after || (file.moves && record.frames < 2 ? "This picture moves; its first frame is explained." : ""));
      if (await ready) return; // the folder holds all its maps
      at("size").textContent = "";
      await fill(mine);
    } catch (error) {
      if (mine !== turn) return;
      forget();
      throw error;
    } finally {
      timers.forEach(clearTimeout);
    }
  });
}

// How many classes are explained at once.
function count() {
  if (!isMask()) return 1;
  return Math.min(about.classes.length, about.classes.length <= FEW ? FEW : LISTED);
}

const draw = (image) => pixelsOf(image, ...fitted(image, LONGEST));

// A picture's pixels; null where the browser cannot read it.
async function read(image) {
  const bitmap = await createImageBitmap(image).catch(() => null);
  const pixels = bitmap && draw(bitmap);
  bitmap?.close(); // a large one is large twice otherwise
  return pixels;
}

// Displays a picture that is being explained.
function place(picture) {
  current = null;
  part("result");
  showCases(at("cases"), null);
  at("about").hidden = at("dials").hidden = at("downloads").hidden = at("others").hidden = true;
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "the picture, which is being explained");
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").putImageData(picture, 0, 0);
  at("result").className = "";
  at("views").replaceChildren(element("article", "view", element("div", "heading", element("h2", "", "Your picture")), element("div", "mains", element("figure", "", canvas))));
}

// Displays what the guard of the server says; without a guard there is nothing.
function showTrust(trust) {
  at("trust").hidden = !trust;
  if (!trust) return;
  const { sign, kind, words } = describeTrust(trust);
  const mark = element("span", "mark", sign);
  mark.setAttribute("aria-hidden", "true");
  at("trust").className = kind;
  at("trust").replaceChildren(mark, element("span", "", words));
}

async function display(image, frame, picture, record) {
  const mine = turn;
  const answers = new Map(record.answers.map((answer) => [answer.index, answer]));
  const views = new Map();
  for (const answer of record.answers) views.set(answer.index, await viewOf(answer, picture, signOf(record)));
  if (mine !== turn) return;
  current = { image, frame, picture, record, answers, views, chosen: [record.answers[0].index, null] };
  panel = "overlay";
  previewed = null;
  offer("", [], [], null);
  part("result");
  showCases(at("cases"), record.cases);
  at("frames").hidden = record.frames < 2;
  at("frame").max = record.frames;
  at("frame").value = frame;
  at("count").textContent = `of ${record.frames}`;
  const strongest = isMask() ? views.get(record.top[0].index)?.strongest : 1;
  at("verdict").textContent = describeVerdict(record, strongest ?? 1);
  showTrust(record.trust);
  refresh();
}

// Explains the listed classes one by one, where each costs a pass; a newer picture ends it.
async function fill(mine) {
  if (!isMask()) return;
  for (const { index } of current.record.top.slice(0, count())) {
    if (mine !== turn || current === null) return;
    if ((await ensure(index).catch(() => true)) || mine !== turn) continue;
    refresh();
  }
}

// Sees to it that there is a view of a class; false where it had to be computed.
async function ensure(index) {
  const { image, frame, picture, views, answers } = current; // a newer picture may replace it
  if (views.has(index)) return true;
  const record = await explain(image, { target: index, frame });
  for (const answer of record.answers) answers.set(answer.index, answer);
  views.set(index, await viewOf(answers.get(index), picture, signOf(record)));
  return false;
}

// Displays a class, in the first place or beside it.
function choose(index, place) {
  const mine = turn;
  return trying(async () => {
    const late = setTimeout(say, PATIENCE, "Looking …");
    try {
      await ensure(index);
    } finally {
      clearTimeout(late);
    }
    if (mine !== turn) return;
    const { chosen } = current;
    if (place === 1) chosen[1] = chosen[1] === index ? null : index;
    else current.chosen = [index, chosen[1] === index ? null : chosen[1]];
    previewed = null;
    say("");
    refresh();
    at("spoken").textContent = current.chosen.filter((one) => one !== null).map((one) => current.views.get(one).summary).join(" ");
  });
}

function preview(index) {
  if (!isMask() || current === null || previewed === index || (index !== null && !current.views.has(index))) return;
  previewed = index;
  layOut();
}

// Displays what is chosen, and lists the classes.
function refresh() {
  layOut();
  const { record, answers, chosen, views } = current;
  const rows = new Map(record.top.map((row) => [row.index, row]));
  for (const [index, answer] of answers) if (!rows.has(index)) rows.set(index, answer);
  const fixed = isMask() ? null : record.top[0].index;
  const state = { rows: [...rows.values()], chosen, views, predicted: record.predicted, fixed, sign: signOf(record) };
  listClasses(state, { choose, preview });
}

function layOut() {
  const [first, second] = current.chosen;
  const indices = previewed === null ? [first, second] : [previewed, second === previewed ? first : second];
  const views = indices.filter((index) => index !== null).map((index) => current.views.get(index));
  arrange(views, panel, (key) => {
    panel = key;
    layOut();
    document.querySelector("#others .enlarge")?.focus();
  });
  current.displayed = views;
  redraw();
}

function redraw() {
  at("opacity").nextElementSibling.textContent = dials().opacity.toFixed(2);
  at("level").nextElementSibling.textContent = dials().threshold ? dials().threshold.toFixed(2) : "off";
  for (const view of current?.displayed ?? []) view.redraw(dials());
}

// Displays one part of the page: "result", "webcam", or neither.
function part(name) {
  at("work").hidden = name === null;
  for (const id of ["result", "webcam"]) at(id).hidden = id !== name;
  at("about").hidden = at("downloads").hidden = name !== "result";
  at("dials").hidden = false;
}

// What is displayed belongs to another picture than the one that was brought.
function forget() {
  current = null;
  at("work").setAttribute("aria-busy", "false");
  part(null);
}

function halt() {
  stop();
  if (!at("webcam").hidden) part(null);
}

function watch() {
  turn++;
  showCases(at("cases"), null);
  forget();
  say("Waiting for the webcam …");
  trying(async () => {
    if (about === null) await begin(false); // asks for the token
    await start(dials, () => say(""), () => {
      part("webcam");
      at("stop").focus();
    });
  }).then(halt);
}

function stem() {
  return current.displayed.map((view) => short(view.answer.class, view.answer.index)).join("-vs-").replace(/[^\w]+/g, "-").toLowerCase();
}

at("pick").addEventListener("click", () => at("file").click());
at("photograph").addEventListener("click", () => at("camera").click());
at("live").addEventListener("click", watch);
at("stop").addEventListener("click", () => {
  halt();
  say("");
  at("live").focus();
});
for (const id of ["file", "camera"]) {
  at(id).addEventListener("change", ({ target }) => {
    if (target.files.length) bring([...target.files]);
    target.value = "";
  });
}
at("frame").addEventListener("change", ({ target }) => {
  if (current && target.validity.valid && target.value) open(current.image, { frame: target.valueAsNumber });
});
for (const id of ["opacity", "level"]) at(id).addEventListener("input", redraw);
at("save").addEventListener("click", async () => {
  const heading = current.displayed.map(({ name }) => name).join(" vs ");
  const rows = current.displayed.map(({ name, panels }) => panels.map(({ canvas, title }) => ({ canvas, title: `${title} (${name})` })));
  download(await joined(rows, heading), `${stem()}.png`);
});
at("raw").addEventListener("click", async () => {
  for (const view of current.displayed) {
    const name = short(view.answer.class, view.answer.index).replace(/[^\w]+/g, "-").toLowerCase();
    download(await pngFile(view.answer.map.png), `${name}.map.png`);
  }
});
at("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const word = at("name").value.trim();
  if (!word || !current) return;
  searchClass(about.classes, word, (index) => {
    at("name").value = "";
    return choose(index, 0);
  });
});
at("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(at("token").value);
  at("token").value = "";
  trying(() => begin());
});
document.addEventListener("paste", ({ clipboardData, target }) => {
  const files = [...clipboardData.files];
  if (files.length) bring(files);
  else if (!target.closest?.("input")) say("There is no picture on the clipboard; copy a picture, not its address or a text.", true);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("choose").classList.toggle("over", kind === "dragover");
    if (kind !== "drop") return;
    const files = [...event.dataTransfer.files];
    if (files.length) bring(files);
    else say("That is no file; save the picture first, or copy it and paste it here.", true);
  });
}
at("promise").textContent = PROMISE;
at("formats").textContent = `or drop one here, or paste it. ${FORMATS}`;
say("");
trying(() => begin()).then(() => clearTimeout(loading));
