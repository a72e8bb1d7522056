// A card as elements on the page. There are three forms; each gives {id, form, label, data, element, loading, isReady}.

import { make } from "./make.js";

const RETRY_MS = 1500;

/** An <img> whose promise `loaded` holds when it is decoded; one that fails is tried once more. */
function picture(src, alt, options = {}) {
  const image = make("img", { alt, decoding: "sync", draggable: "false", ...options });
  const attempt = () => {
    image.src = src;
    return image.decode();
  };
  const again = () => new Promise((resolve) => setTimeout(resolve, RETRY_MS)).then(() => {
    image.removeAttribute("src");
    return attempt();
  });
  const loaded = src
    ? attempt().catch(again).catch(() => image.replaceWith(make("div", { class: "gone", role: "img", "aria-label": alt, text: "This picture cannot be loaded." })))
    : Promise.resolve();
  return { image, loaded };
}

/** Make a card ready to be shown. */
export function prepare(data) {
  const card = { id: data.id, form: data.form, label: data.label ?? "", data, isReady: false };
  const must = FORMS[data.form](card, data);
  card.loading = Promise.all(must).then(() => (card.isReady = true));
  return card;
}

function heading(data) {
  const children = data.label ? [make("span", { class: "label", text: data.label }), " "] : [];
  return make("h2", { class: "question" }, ...children, make("span", { text: data.question }));
}

function single(card, data) {
  const crop = picture(data.crop, `Crop: is the outlined object a good ${data.label}?`, { class: "look", elementtiming: data.id });
  const frame = make("figure", { class: "crop" }, crop.image);
  const around = [];
  if (data.context) {
    const context = picture(data.context, "The same object in its surroundings", { class: "look" });
    around.push(make("button", { type: "button", class: "context", title: "Surroundings: tap or press x to see them large" }, context.image, make("span", { class: "caption" }, "Surroundings ", make("kbd", { text: "x" }))));
  }
  card.element = make("article", { class: "card single" }, heading(data), frame, ...around);
  return [crop.loaded];
}

function sheet(card, data) {
  const pictures = data.items.map((item, i) => picture(item.crop, `Picture ${i + 1}${item.label ? ": " + item.label : ""}`, { class: "look", elementtiming: `${data.id}/${i}` }));
  const isMixed = new Set(data.items.map((item) => item.label)).size > 1;
  card.tiles = data.items.map((item, i) => {
    const key = i < 10 ? [make("kbd", { text: (i + 1) % 10 })] : [];
    const name = isMixed ? [make("span", { class: "name", text: item.label })] : [];
    const mark = make("span", { class: "mark", "aria-hidden": "true", text: "✗ wrong" });
    return make("button", { type: "button", class: "tile", "aria-pressed": "false", "aria-label": `Picture ${i + 1}${item.label ? ", " + item.label : ""}: wrong`, "data-at": i }, pictures[i].image, mark, ...key, ...name);
  });
  card.element = make("article", { class: "card sheet" }, heading({ question: data.question, label: isMixed ? "" : data.label }), make("div", { class: "tiles" }, ...card.tiles));
  return pictures.map((one) => one.loaded);
}

function whole(card, data) {
  const image = picture(data.image, "The picture to sort", { class: "look", elementtiming: data.id });
  card.element = make("article", { class: "card class" }, heading({ question: data.question, label: "" }), make("figure", { class: "crop" }, image.image));
  return [image.loaded];
}

const FORMS = { single, sheet, class: whole };

/** What stood in an answer, in words. */
export function inWords(answer) {
  if (answer.choices) return answer.choices.join(", ") || "none";
  if (answer.wrong) return answer.wrong.length ? `${answer.wrong.length} wrong` : "all good";
  return { skip: "skipped" }[answer.value] ?? answer.value;
}

/** The address of the picture that stands for a card in the row of last answers. */
export const thumb = (data) => data.crop || data.image || data.items?.[0]?.crop || "";
