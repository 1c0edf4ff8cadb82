// Names of classes: which class a word means, and which names are near it.

export const FEW = 12; // so many classes are all listed

const firstOf = (name) => name.split(",")[0].trim();
let shortNames = new Map();
let repeated = new Set();

// Learns all classes, so that `short` tells them apart.
export function distinguish(classes) {
  const beginnings = count(classes.map((name) => plain(firstOf(name))));
  const isFirst = (name) => firstOf(name) && beginnings.get(plain(firstOf(name))) === 1;
  shortNames = new Map(classes.map((name) => [name, isFirst(name) ? firstOf(name) : name]));
  const whole = count(classes);
  repeated = new Set(classes.filter((name) => whole.get(name) > 1 || !name.trim()));
}

// The first synonym, where no other class begins with it, and else the whole name; with the index where others have the same.
export function short(name, index) {
  if (repeated.has(name) && index !== undefined) return `${name} (${index})`.trimStart();
  return shortNames.get(name) ?? firstOf(name);
}

function count(words) {
  const counts = new Map();
  for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
  return counts;
}

const plain = (text) => text.trim().toLowerCase();
const synonymsOf = (name) => name.split(",").map(plain);

// The indices of all classes that a word means: a whole name, else a synonym, else an index; of each in the same case, else in any.
export function findClasses(classes, word) {
  const text = plain(word);
  const indicesWhere = (test) => classes.flatMap((name, index) => (test(name) ? [index] : []));
  const tests = [
    (name) => name.trim() === word.trim(),
    (name) => plain(name) === text,
    (name) => name.split(",").some((one) => one.trim() === word.trim()),
    (name) => synonymsOf(name).includes(text),
  ];
  for (const test of tests) {
    const named = indicesWhere(test);
    if (named.length) return named;
  }
  if (!/^\d{1,9}$/.test(text)) return [];
  return Number(text) < classes.length ? [Number(text)] : [];
}

// The indices of at most so many classes with names like a word, the nearest first.
export function nearClasses(classes, word, most = 6) {
  const text = plain(word);
  const ranked = classes.map((name, index) => [Math.min(...synonymsOf(name).map((one) => rank(text, one))), index]);
  const near = ranked.filter(([far]) => far <= Math.max(1, text.length / 3)).sort(([one], [other]) => one - other);
  return near.slice(0, most).map(([, index]) => index);
}

// How far a name is from a word: parts of a name count as near.
function rank(word, name) {
  if (word.length > 2 && name.split(/[\s-]+/).includes(word)) return 0.25;
  if (word.length > 2 && name.includes(word)) return 0.5;
  const parts = name.split(/[\s-]+/).map((part) => 0.25 + distance(word, part));
  return Math.min(distance(word, name), ...parts);
}

// How many letters must be changed to make one word of another (Levenshtein).
function distance(one, other) {
  let row = Array.from({ length: other.length + 1 }, (_, at) => at);
  for (let at = 1; at <= one.length; at++) {
    const next = [at];
    for (let to = 1; to <= other.length; to++) {
      next.push(Math.min(row[to] + 1, next[to - 1] + 1, row[to - 1] + (one[at - 1] !== other[to - 1])));
    }
    row = next;
  }
  return row.at(-1);
}
