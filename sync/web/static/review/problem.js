// Pages without a card: what is wrong and what to do.

import { at, make } from "./make.js";

export function problemPage(title, paragraphs) {
  document.body.dataset.form = "message";
  document.title = title;
  at("answers").replaceChildren();
  at("examples").replaceChildren();
  at("recent").replaceChildren();
  at("figures").replaceChildren();
  at("stage").replaceChildren(make("div", { class: "message", role: "alert" }, make("h2", { text: title }), ...paragraphs.map((text) => make("p", { text }))));
}
