// Making elements. Text goes in as text, never as markup.

export const $ = (id) => document.getElementById(id);

/** An element with attributes (`class`, `title`, …; null leaves one out) and children, which are nodes or texts. */
export function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Write a text where it is not yet written: screen readers and layout hear of changes only. */
export function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A row of a table; the first cell is its heading. */
export function row(heading, ...cells) {
  return make("tr", {}, make("th", { scope: "row" }, heading), ...cells.map((cell) => make("td", {}, cell)));
}

/** A way to choose one of a few: buttons of which one is pressed. `choices` are [value, text]. */
export function setUpChoice(group, choices, isChosen, onChoice) {
  group.replaceChildren(...choices.map(([value, text]) => {
    const button = make("button", { type: "button", value, "aria-pressed": String(isChosen(value)) }, text);
    button.addEventListener("click", () => onChoice(value));
    return button;
  }));
}

export function showChoice(group, isChosen) {
  for (const button of group.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(isChosen(button.value)));
  }
}
