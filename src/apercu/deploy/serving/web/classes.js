// The list of classes beside a picture, and the search for any other class.

import { FEW, findClasses, nearClasses, short } from "./names.js";
import { element } from "./views.js";
import { NONE, list, percent } from "./words.js";

const HOVER = 80; // milliseconds that a pointer must rest on a class
const at = (id) => document.getElementById(id);

// Lists classes. `state`: { rows, chosen, views, predicted, fixed, sign }; `act`: { choose, preview }.
export function listClasses(state, act) {
  const focused = document.activeElement?.dataset.key;
  at("classes").replaceChildren(...state.rows.map((row) => rowOf(row, state, act)));
  if (focused) document.querySelector(`[data-key="${focused}"]`)?.focus();
}

function rowOf(row, { chosen, views, predicted, fixed, sign }, act) {
  const isFixed = row.index === fixed; // an image cannot be changed into what it is
  const bar = element("i");
  bar.style.width = `${100 * row.probability}%`;
  const title = element("span", "title", short(row.class, row.index));
  title.title = row.class;
  const marks = [];
  if (isFixed) marks.push("what it says now");
  else if (predicted?.includes(row.class)) marks.push("found");
  if (views.get(row.index)?.strongest < NONE) marks.push("nothing here");
  const words = element("span", "words", title);
  if (marks.length) words.append(element("small", "", marks.join(", ")));
  const button = element("button", "class", bar, words, element("span", "share", percent(row.probability, sign)));
  button.dataset.key = `class-${row.index}`;
  button.disabled = isFixed;
  button.setAttribute("aria-pressed", chosen[0] === row.index);
  button.addEventListener("click", () => act.choose(row.index, 0));
  let rest = null;
  button.addEventListener("pointerenter", ({ pointerType }) => {
    if (pointerType === "mouse") rest = setTimeout(() => act.preview(row.index), HOVER);
  });
  button.addEventListener("pointerleave", ({ pointerType }) => {
    clearTimeout(rest);
    if (pointerType === "mouse") act.preview(null);
  });
  const versus = element("button", "versus", "vs");
  versus.dataset.key = `versus-${row.index}`;
  versus.title = "Side by side";
  versus.setAttribute("aria-label", `Side by side with ${short(row.class, row.index)}`);
  versus.setAttribute("aria-pressed", chosen[1] === row.index);
  versus.disabled = isFixed || chosen[0] === row.index;
  versus.addEventListener("click", () => act.choose(row.index, 1));
  return element("li", "", button, versus);
}

// Chooses the class that a word means, or offers those with names near it.
export function searchClass(classes, word, choose) {
  const matches = findClasses(classes, word);
  if (matches.length === 1) {
    offer("", [], classes, choose);
    return choose(matches[0]);
  }
  const near = matches.length ? matches : nearClasses(classes, word);
  const names = (indices, last) => list(indices.map((index) => short(classes[index], index)), last);
  const all = classes.length <= FEW ? [...classes.keys()] : null;
  let words = `No class is called “${word}”`;
  if (matches.length) words = `Several classes are called “${word}”; which of them?`;
  else if (near.length) words += `; did you mean ${names(near, "or")}?`;
  else if (all) words += `; there are ${names(all, "and")}.`;
  else words += ", nor nearly so; begin to type, and choose from the list.";
  return offer(words, near.length ? near : (all ?? []), classes, choose);
}

// Writes some words below the search, and a button for each class that may be meant.
export function offer(words, indices, classes, choose) {
  at("near").hidden = !words;
  at("missed").textContent = words;
  at("near").lastElementChild.replaceChildren(
    ...indices.map((index) => {
      const button = element("button", "", short(classes[index], index));
      button.addEventListener("click", () => {
        offer("", [], classes, choose);
        choose(index);
      });
      return element("li", "", button);
    }),
  );
}
