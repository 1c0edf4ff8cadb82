// What the page says about a picture, in sentences.

import { short } from "./names.js";

export const WEAK = 0.5; // of the strongest evidence that a map may hold
export const NONE = 0.1;

// A fraction in %; `sign` stands before the number.
export const percent = (share, sign = "") => (share < 0.0005 ? `< ${sign}0.1 %` : `${sign}${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`);

// The sign before the probabilities of classes: ~ where the explainer estimates them.
export const signOf = (record) => (record.read_by === "classifier" ? "" : "~");

// Rounded down, so that 99.7 % is not all.
const wholePercent = (share) => `${Math.floor(100 * share + 1e-6)} %`;

// What the classifier says of a picture, and how sure it is; `strongest` evidence for the class.
export function describeVerdict(record, strongest) {
  const [first, second] = record.top;
  const who = record.read_by === "classifier" ? "The classifier" : "The classifier, as the explainer reads it,";
  const name = short(first.class, first.index);
  const share = (row) => percent(row.probability, signOf(record));
  const doubt = strongest < NONE ? ` But nothing in this picture speaks for ${name}: perhaps it is of a kind that the classifier does not know.` : "";
  if (record.value !== undefined) return `${who} says ${record.value.toPrecision(4)}.`;
  if (record.predicted) {
    const names = record.predicted.map((name) => short(name));
    return names.length ? `${who} finds ${list(names)}.${doubt}` : `${who} finds none of its classes here; ${name} comes nearest (${share(first)}).`;
  }
  if (first.probability >= 0.9) return `${who} says ${name} and is very sure: ${share(first)}.${doubt || " Sure is not always right."}`;
  if (first.probability >= 0.7) return `${who} says ${name} and is fairly sure: ${share(first)}.${doubt}`;
  if (first.probability >= 0.5) return `${who} says ${name} but is not sure: ${share(first)}.${doubt}`;
  const then = second ? `, then ${short(second.class, second.index)} (${share(second)})` : "";
  return `${who} hesitates. Its best guess is ${name} (${share(first)})${then}.${doubt}`;
}

// Whether what the classifier says may be believed: a sign, what it stands for, and a sentence.
export function describeTrust(trust) {
  const sure = trust.confidence === null ? "" : ` Calibrated confidence: ${percent(trust.confidence)}.`;
  if (trust.tampered === null) return { sign: "?", kind: "open", words: `The guard cannot say whether to believe this (${trust.why}).` };
  if (!trust.alarms.length) return { sign: "✓", kind: "usual", words: `The guard raises no alarm: ${trust.why}.${sure}` };
  const found = trust.alarms.map((question) => `${question}, more so than ${wholePercent(trust[question])} of the clean images`);
  return { sign: "!", kind: "alarm", words: `Do not rely on this: the guard finds the picture ${found.join(", and ")} (${trust.why}).` };
}

export function list(names, word = "and") {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} ${word} ${names.at(-1)}`;
}

// What is said of a map without strong evidence; nothing of others.
export function describeDoubt(strongest, name) {
  if (strongest >= WEAK) return "";
  const much = strongest < NONE ? "Nothing" : "Little";
  return `${much} here speaks for ${name}: the strongest evidence is ${strongest.toFixed(2)}, of at most 1.`;
}

// Where the evidence of a map lies (0 to 255 per pixel), and how much of the picture it covers.
export function describePlace(map, width, height) {
  let [count, across, down] = [0, 0, 0];
  for (let at = 0; at < map.length; at++) {
    if (map[at] < 128) continue;
    count++;
    across += at % width;
    down += Math.floor(at / width);
  }
  if (count === 0) return "";
  const third = (sum, side) => Math.min(2, Math.floor((3 * sum) / count / side));
  const row = ["at the top", "", "at the bottom"][third(down, height)];
  const column = ["on the left", "", "on the right"][third(across, width)];
  const where = row && column ? `${row}, ${column}` : row || column || "in the middle";
  return `${where}, ${percent(count / map.length)} of the picture`;
}

// Whether a pair of counterparts does what it should, as far as the classifier was asked.
export function describeFlip(answer) {
  const [from, to] = [short(answer.seen), short(answer.class, answer.index)];
  if (answer.flipped === undefined) return "Whether the classifier agrees was not checked: it is not on this server.";
  const last = short(answer.strip_classes.at(-1));
  if (!answer.kept) return `The pair fails: the classifier no longer says ${from} of the similar picture.`;
  if (answer.flipped) return `With this change the classifier says ${to} (${percent(answer.probabilities.at(-1))}).`;
  return last === from ? `The change does not suffice: the classifier still says ${from}.` : `The change misses its aim: the classifier says ${last}, not ${to}.`;
}
