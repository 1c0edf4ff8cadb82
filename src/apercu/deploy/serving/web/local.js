// What this page asks this machine: a worker explains, and no picture leaves the browser.

import { missing } from "./downloads.js";
import { FEW, findClasses } from "./names.js";
import { greySheet, pixelsOf, sheet, toBlob } from "./paint.js";

export const PROMISE = "Pictures are explained in this browser: none is sent anywhere.";
export const FORMATS = "JPEG, PNG, WebP, GIF, BMP, AVIF.";
export const READER = "this browser";

const TOP = 5;
const SMALLEST = 2;
const LARGEST = 100_000_000; // pixels, as in Python
const LOGIT_RANGE = 4;
// The smallest module with an instruction of SIMD.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const ISOLATED = "apercu.isolated";
const PATIENCE = 1000; // milliseconds for a service worker to begin
const ACTIONS = ["pointerdown", "keydown", "dragenter", "paste", "change"];

let about = null;
let progress = () => null;
let worker = null;
let questions = 0;
const open = new Map(); // questions that the worker has not answered
let latest = null; // the picture (a Blob) that the worker has at hand
// Resolves when somebody begins to use the page.
const used = new Promise((resolve) => {
  for (const action of ACTIONS) window.addEventListener(action, () => resolve(null), { capture: true, once: true });
});

export function useToken() {
  return null; // nobody asks for one
}

// About the explainer: name, classes, colours, number of examples, and what is to be downloaded.
export async function served(report = () => null) {
  progress = report;
  check();
  await isolate();
  let answer;
  try {
    answer = await fetch("page.json");
    about = await answer.json();
  } catch {
    throw new Error("page.json is missing on the server or damaged; export the folder again.");
  }
  return { ...about, download: await missing(Object.values(about.files)) };
}

function check() {
  const able = typeof WebAssembly === "object" && WebAssembly.validate(Uint8Array.from(SIMD));
  const rest = typeof DecompressionStream === "function" && typeof OffscreenCanvas === "function";
  if (able && rest) return;
  const lack = able ? "DecompressionStream or OffscreenCanvas" : "WebAssembly with SIMD";
  throw new Error(`This browser cannot run the explainer: it has no ${lack}. Use a newer Firefox, Chrome, Edge or Safari.`);
}

// Several threads need two headers, which few static servers send: a service worker adds them.
// The page is loaded once more for that, unless somebody uses it already, whose picture would be
// lost; where that does not help, one thread computes.
async function isolate() {
  if (window.crossOriginIsolated || !navigator.serviceWorker || wasTried()) return;
  const begun = navigator.serviceWorker.register("isolate.js").then(() => navigator.serviceWorker.ready);
  const late = new Promise((done) => setTimeout(done, PATIENCE, null));
  if (!(await Promise.race([used, begun, late]).catch(() => null))) return;
  window.location.reload();
  await used; // while the page is still asked for
  window.stop();
}

// Whether this tab was loaded once more already; true where it cannot remember.
function wasTried() {
  try {
    const tried = sessionStorage.getItem(ISOLATED) !== null;
    sessionStorage.setItem(ISOLATED, "tried");
    return tried;
  } catch {
    return true;
  }
}

export async function example(number) {
  const answer = await fetch(`examples/${about.example_files[number]}`);
  if (!answer.ok) throw new Error(`examples: number ${number} is missing on the server`);
  return answer.blob();
}

// The explanation of an example, which the folder holds; null in folders of older exports.
export async function exampleRecord(number) {
  const name = about.example_maps?.[number];
  if (!name) return null;
  try {
    const { size, probabilities, maps } = await (await fetch(`examples/${name}`)).json();
    const answers = [];
    for (const [index, png] of Object.entries(maps)) {
      const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
      const map = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
      const canvas = sheet(map.width, map.height);
      canvas.getContext("2d").putImageData(pixelsOf(map, map.width, map.height), 0, 0);
      answers.push({ index: Number(index), map: { png: canvas } });
    }
    return record({ size, probabilities }, answers);
  } catch {
    return null; // it is explained here, as any other picture
  }
}

// Whether a picture of this size is small enough to be displayed.
export const canShow = ({ width, height }) => width * height <= LARGEST;

// Explains an image (a Blob): the target, or the class predicted most. `format` is png or array.
export async function explain(image, { target, format = "png", top = TOP, size = null } = {}) {
  const index = target === undefined ? -1 : find(target);
  if (size) checkSize(size);
  let picture = null;
  if (image !== latest) {
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
    picture = await createImageBitmap(image, options).catch(() => {
      throw Object.assign(new Error("This browser cannot read that file as a picture; save it as JPEG or PNG."), { unread: true });
    });
    checkSize(picture);
    latest = image;
  }
  const result = await ask(picture, index, picture ? [picture] : []).catch((error) => {
    latest = null;
    throw error;
  });
  return record(result, [answerOf(result.map, index, format)], top);
}

function checkSize({ width, height }) {
  const sides = `${width} × ${height} (width × height)`;
  if (Math.min(width, height) < SMALLEST) {
    throw new Error(`image: too small to explain, expected at least ${SMALLEST} × ${SMALLEST} pixels, got ${sides}`);
  }
  if (width * height > LARGEST) {
    throw new Error(`image: too large, expected at most ${LARGEST / 1e6} megapixels, got ${sides}; resize it first`);
  }
}

// Explains a frame of the webcam: a canvas, and its pixels.
export async function explainFrame(_, picture) {
  latest = null;
  const result = await ask(picture, -1, []);
  return record(result, [answerOf(result.map, -1, "png")]);
}

// A map that explain() made, to be drawn.
export async function decode(map) {
  return map;
}

// The same as a file.
export function pngFile(map) {
  return toBlob(map, "image/png");
}

function ask(picture, target, transfer) {
  worker ??= hire();
  const number = ++questions;
  return new Promise((resolve, reject) => {
    open.set(number, { resolve, reject });
    worker.postMessage({ number, about, picture, target }, transfer);
  });
}

function hire() {
  const hired = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  hired.onmessage = ({ data }) => {
    if (data.step) progress(data);
    else if (data.broken) dismiss(hired, data.error);
    else {
      const { resolve, reject } = open.get(data.number);
      open.delete(data.number);
      if (data.error) reject(new Error(data.error));
      else resolve(data.result);
    }
  };
  hired.onerror = (event) => {
    event.preventDefault();
    const reason = event.message ?? "its script did not load";
    dismiss(hired, `The explainer stopped (${reason}); close other tabs and choose the picture again.`);
  };
  return hired;
}

// Ends a worker that cannot go on; the next picture begins anew with another.
function dismiss(hired, words) {
  hired.terminate();
  worker = latest = null;
  for (const { reject } of open.values()) reject(new Error(words));
  open.clear();
}

// The worker's numbers as /v1/explain would answer.
function record({ size, probabilities }, answers, most = TOP) {
  if (!probabilities.every(Number.isFinite)) throw new Error("The classifier gives no numbers for this picture (NaN or infinite).");
  const named = (index) => ({ class: about.classes[index], index, probability: probabilities[index] });
  const order = Array.from(probabilities.keys()).sort((one, other) => probabilities[other] - probabilities[one]);
  const top = order.slice(0, order.length <= FEW ? FEW : Math.max(TOP, most)).map(named);
  const whole = answers.map(({ index, map }) => ({ ...named(index < 0 ? order[0] : index), map }));
  whole.sort((one, other) => other.probability - one.probability);
  const result = { explainer: about.explainer, read_by: "classifier", size, frames: 1, top, answers: whole };
  if (about.several) result.predicted = order.filter((index) => probabilities[index] >= 0.5).map((index) => about.classes[index]);
  if (about.value_range) {
    const [low, high] = about.value_range;
    const [lower, higher] = Array.from(probabilities, (value) => Math.log(Math.max(value, 1e-38)));
    result.value = (low + high) / 2 + ((high - low) / LOGIT_RANGE) * (higher - lower);
  }
  return result;
}

function answerOf(map, index, format) {
  const [height, width] = about.size;
  const answer = { index, map: { png: greySheet(map, width, height) } };
  if (format === "array") answer.map.array = Array.from(map);
  return answer;
}

// The index of a class that is given by its index or its name.
function find(target) {
  if (typeof target === "number") return target;
  const [index] = findClasses(about.classes, target);
  if (index === undefined) throw new Error(`target: no class is called '${target}'`);
  return index;
}
