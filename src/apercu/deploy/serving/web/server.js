// What this page asks the server, and nobody else.

import { toBlob } from "./paint.js";

let token = null;

export const PROMISE = "Pictures are explained and forgotten: the server keeps and logs none.";
export const FORMATS = "DICOM, FITS and .npy, too.";
export const READER = "this server";

export const FEW_KEYS = 10; // classes that have a key each, when images are labelled

const LARGEST = 100_000_000; // pixels of a picture that the browser is to draw

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export function useToken(word) {
  token = word; // in this page's memory alone: gone when it is closed
}

// Sends a request with the token; `Refused` where it is not answered with success.
export async function ask(address, options = {}) {
  const headers = { ...options.headers, ...(token === null ? {} : { Authorization: `Bearer ${token}` }) };
  let answer;
  try {
    answer = await fetch(address, { ...options, headers });
  } catch {
    throw new Refused("The server does not answer; is it still running?", 0);
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ detail: `${answer.status} ${answer.statusText}` }));
  throw new Refused(problem.detail, answer.status);
}

// About the explainer: name, classes, colours, number of examples.
export async function served() {
  return (await ask("page.json")).json();
}

export async function example(number) {
  return (await ask(`examples/${number}.png`)).blob();
}

// The server explains examples as any other picture.
export const exampleRecord = () => null;

// Whether a picture of this size is small enough to be displayed.
export const canShow = ({ width, height }) => width * height <= LARGEST;

// Explains an image (a Blob): fields as /v1/explain takes them.
export async function explain(image, { size, ...fields }) {
  const form = new FormData();
  form.append("image", image, "image");
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return (await ask("v1/explain", { method: "POST", body: form })).json();
}

// Explains a frame of the webcam: a canvas, and its pixels.
export async function explainFrame(canvas) {
  return explain(await toBlob(canvas, "image/jpeg"), { format: "png" });
}

// A picture that the server sent as base64, to be drawn.
export function decode(text) {
  return createImageBitmap(pngFile(text));
}

// The same as a file.
export function pngFile(text) {
  return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}
