// Beside the card: examples of its label, the person's figures, the last ten answers.

import { inWords } from "./card.js";
import { make, plural } from "./make.js";

const MARKS = { yes: "✓", no: "✗", unsure: "?", skip: "»" };

function row(name, mark, urls, captions = []) {
  const pictures = urls.map((src, i) => {
    const why = captions[i] ?? "";
    const image = make("img", { src, alt: `${name} example ${i + 1}${why ? ": " + why : ""}`, decoding: "async", draggable: "false" });
    return make("figure", {}, image, ...(why ? [make("figcaption", { text: why })] : []));
  });
  return make("div", { class: `examples ${name}` }, make("h3", {}, make("span", { class: "mark", "aria-hidden": "true", text: mark }), ` ${name === "good" ? "Good" : "Wrong"}`), make("div", { class: "strip" }, ...pictures));
}

/** Examples of a label; nothing where there are none. */
export function examplesOf(data) {
  const { good = [], bad = [] } = data.examples ?? {};
  return [...(good.length ? [row("good", "✓", good)] : []), ...(bad.length ? [row("bad", "✗", bad, data.examples.bad_captions)] : [])];
}

function mark(answer) {
  if (answer.wrong) return answer.wrong.length ? `${answer.wrong.length}✗` : "✓";
  return MARKS[answer.value] ?? (answer.choices?.[0] ?? "–").slice(0, 4);
}

/** The last answers, the newest first; a press takes that one back. */
export function recentList(entries, takeBack) {
  if (!entries.length) return [];
  const buttons = [...entries].reverse().map((entry) => {
    const words = inWords(entry.answer);
    const gold = entry.right === undefined ? "" : entry.right ? ", right" : ", not right";
    const state = entry.right === undefined ? "" : entry.right ? "right" : "wrong";
    return make("button", { type: "button", class: `past ${state}`, title: `${words}${gold}: take back`, "aria-label": `Take back: ${words}${gold}`, click: () => takeBack(entry) }, make("img", { src: entry.thumb, alt: "", draggable: "false" }), make("span", { class: `mark ${entry.answer.value ?? ""}`, "aria-hidden": "true", text: mark(entry.answer) }));
  });
  return [make("h3", { text: "Last answers" }), make("div", { class: "pasts" }, ...buttons)];
}

const percent = (share) => `${Math.round(100 * share)}`;
const interval = ({ low, high }) => `between ${percent(low)} and ${percent(high)} % (95 % sure)`;

function ofModel({ share, low, high, pictures }) {
  if (share === undefined) return ["–", `too few test pictures to say: ${pictures}`];
  return [`${percent(share)} %`, `${interval({ low, high })}, ${plural(pictures, "test picture")}`];
}

/** Figures of this person as rows of a list; [] when the server tells none. */
export function figures(stats) {
  const facts = [];
  if (stats.answered_today !== null && stats.answered_today !== undefined) facts.push(["today", plural(stats.answered_today, "answer")]);
  if (stats.per_minute) facts.push(["speed", `${stats.per_minute.toFixed(stats.per_minute < 10 ? 1 : 0)} a minute`]);
  if (stats.median_s) facts.push(["half of them within", `${stats.median_s.toFixed(1)} s`]);
  if (stats.gold?.asked) facts.push(["known ones right", `${stats.gold.right} of ${stats.gold.asked}`]);
  if (stats.accuracy?.own) facts.push(["right, if known", `${stats.accuracy.own.right} of ${stats.accuracy.own.of}`, interval(stats.accuracy.own)]);
  if (stats.accuracy?.model) facts.push(["the model is right", ...ofModel(stats.accuracy.model)]);
  if (stats.agreement?.of) facts.push(["agreement with the model", `${stats.agreement.same} of ${stats.agreement.of}`]);
  if (stats.queue) facts.push(["on the way to Label Studio", plural(stats.queue, "answer")]);
  return [make("dl", {}, ...facts.flatMap(([name, value, more]) => [make("dt", { text: name }), make("dd", { text: value }), ...(more ? [make("dd", { class: "more", text: more })] : [])])), ...classCounts(stats.classes ?? [])];
}

function classCounts(classes) {
  if (!classes.length) return [];
  const most = Math.max(1, ...classes.map(({ count }) => count));
  const rows = classes.flatMap(({ value, count }) => {
    const fill = make("i");
    fill.style.width = `${(100 * count) / most}%`;
    return [make("dt", { text: value }), make("dd", {}, make("span", { class: "bar", "aria-hidden": "true" }, fill), make("span", { text: String(count) }))];
  });
  return [make("h3", { text: "Your answers per class" }), make("dl", { class: "counts" }, ...rows)];
}
