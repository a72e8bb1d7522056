// Which pictures of a stream come first, where the server offers several orders. Kept while the page is open.

import { make } from "./make.js";

const NAMES = {
  project: "as the project orders them",
  entropy: "those the model doubts most",
  surest: "those the model is surest of",
};
const key = (stream) => `groundswell-order:${stream.id}`;

/** The order that a person chose for this stream; "" leaves it to the server. */
export function orderOf(stream) {
  const kept = sessionStorage.getItem(key(stream)) ?? "";
  return stream.orders?.includes(kept) ? kept : "";
}

/** A choice of orders for the settings; nothing where there is none to choose. */
export function orderChoice(stream, onChange) {
  if (!(stream?.orders?.length > 1)) return [];
  const select = make("select", {}, ...stream.orders.map((order) => make("option", { value: order, text: NAMES[order] ?? order })));
  select.value = orderOf(stream) || stream.orders[0];
  select.addEventListener("change", () => {
    sessionStorage.setItem(key(stream), select.value);
    onChange();
  });
  return [make("label", { class: "slider wide" }, make("span", { text: "Which pictures come first" }), select)];
}
