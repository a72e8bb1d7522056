// One dialog for everything that stands in front of the card: keys, picture, figures, a large picture.

import { at, make } from "./make.js";

/** `onCover` hears whether a dialog covers the card. */
export function watchDialog(onCover) {
  const dialog = at("dialog");
  dialog.addEventListener("close", () => {
    if (dialog.open) return; // the event comes late: the dialog was opened again meanwhile
    at("dialog-body").replaceChildren();
    onCover(false);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside the box
  });
  return {
    isOpen: () => dialog.open,
    close: () => dialog.close(),
    open(title, ...body) {
      at("dialog-title").textContent = title;
      at("dialog-body").replaceChildren(...body);
      if (!dialog.open) {
        dialog.showModal();
        onCover(true);
      }
    },
  };
}

const ANSWER_KEYS = {
  single: [["y →", "yes, it is a good one"], ["n ←", "no, it is not"], ["u ↑", "you cannot tell"], ["s ↓", "skip: leave it to somebody else"]],
  sheet: [["1 – 9, 0", "tick a wrong picture, or take the tick away"], ["shift & 1 – 9", "show a picture large (touch: hold it)"], ["enter", "send: what is not ticked is good"], ["s", "skip the sheet"]],
  class: [["keys on the buttons", "the class of the picture"], ["enter", "send, where a picture may have several classes"], ["u", "you cannot tell"], ["s", "skip: leave it to somebody else"]],
};

const OTHER_KEYS = [
  ["⌫", "take the last answer back (up to ten)"],
  ["space", "auto mode: starts, stops"],
  ["+ −", "auto mode: faster, slower"],
  ["z b c", "zoom, brightness, contrast; with shift: less"],
  ["r", "pictures as they are"],
  ["x", "swap picture and surroundings"],
  ["t", "your figures and last answers"],
  ["?", "this help"],
];

/** All keys that mean something on a card of this form. */
export function helpBody(form, hasAuto, isTouch) {
  const others = OTHER_KEYS.filter(([key]) => hasAuto || (key !== "space" && key !== "+ −")).filter(([key]) => form === "single" || key !== "x");
  const rows = [...(ANSWER_KEYS[form] ?? []), ...others].map(([key, text]) => make("tr", {}, make("th", { scope: "row" }, ...key.split(" ").map((part) => (/^[&–]$/.test(part) ? part.replace("&", "+") : make("kbd", { text: part })))), make("td", { text })));
  const swipes = isTouch && form === "single" ? [make("p", { text: "Swipe the picture: right = yes, left = no, up = unsure, down = skip. When it is zoomed, a drag moves it; answer with the buttons then." })] : [];
  return [make("p", { text: WHAT[form] ?? "" }), ...swipes, make("table", {}, make("tbody", {}, ...rows))];
}

const WHAT = {
  single: "Look at the outlined object. Is it what the question says, and does the outline follow its edge? One key answers, and the next card is there.",
  sheet: "All pictures that you do not tick count as good. Tick the wrong ones, then send.",
  class: "Say what the picture shows. One key answers; “model” marks what the model would say, and it may be wrong.",
};
