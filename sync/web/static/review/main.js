// The review page: who is it, which stream, and what the keys and buttons do.

import * as api from "./api.js";
import { Auto } from "./auto.js";
import { Desk } from "./desk.js";
import { helpBody, watchDialog } from "./dialogs.js";
import { watchGestures } from "./gestures.js";
import { Look } from "./look.js";
import { at, make, plural } from "./make.js";
import { orderChoice } from "./orders.js";
import { Outbox, allWaiting } from "./outbox.js";
import { problemPage } from "./problem.js";
import { figures, recentList } from "./side.js";
import { Wire } from "./wire.js";

const FIGURES_MS = 3000;
const isTouch = matchMedia("(pointer: coarse)").matches;

let person = null;
let desk = null;
let outbox = null;
let toastTimer = null;
let figuresTimer = null;

function say(text, isToast = false) {
  at("said").textContent = isToast ? "" : text; // a toast is read aloud by itself
  if (!isToast) return;
  at("toast").textContent = text;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => at("toast").replaceChildren(), Math.max(2500, 60 * text.length));
}

const look = new Look((text) => say(text, true));
const wire = new Wire(() => outbox.now());
const dialog = watchDialog((isCovered) => desk?.cover(isCovered));
const auto = new Auto(at("auto-bar"), () => desk.automatic(), (text) => {
  at("auto").setAttribute("aria-pressed", String(auto.isOn));
  say(text, true);
  desk?.autoChanged();
});
const centre = watchGestures(at("stage"), {
  zoom: () => look.zoom,
  swipes: () => desk?.card?.form === "single",
  answer: (value) => desk?.answer({ value }),
  large: (tile) => showLarge(tile),
});

// who and what

async function start() {
  const link = new URLSearchParams(location.search).get("link");
  if (link) {
    history.replaceState(null, "", location.pathname);
    gone({ field: `link.${link}`, message: "", hint: "" });
    return;
  }
  try {
    person = await api.me();
  } catch (error) {
    if (error instanceof api.Gone) gone(error);
    else {
      problemPage("The server cannot be reached", [`${error.message} The page tries again by itself. Answers that wait on this device are kept.`]);
      setTimeout(start, 1000 * (error.after ?? 3));
    }
    return;
  }
  outbox = new Outbox(person.id, {
    sent: (reply) => {
      wire.show(outbox);
      desk?.sent(reply);
      figuresSoon();
    },
    refused: (list) => desk?.refused(list),
    shown: () => desk?.shown ?? "",
    changed: () => wire.show(outbox),
    gone,
  });
  auto.allow(person.settings.auto_s);
  at("auto").hidden = auto.seconds === null;
  wire.show(outbox);
  if (outbox.unreadable) say(`${plural(outbox.unreadable, "answer")} kept on this device cannot be read and will not be sent. All others will.`, true);
  outbox.now();
  chooseStream();
}

function chooseStream() {
  const streams = person.streams;
  if (!streams.length) {
    problemPage("Nothing to review now", ["You are not asked about any project at the moment. This page looks again by itself."]);
    setTimeout(start, 15000);
    return;
  }
  const kept = sessionStorage.getItem("groundswell-stream");
  const select = at("stream");
  select.replaceChildren(...streams.map(({ id, title }) => make("option", { value: id, text: title })));
  at("stream-label").hidden = streams.length < 2;
  at("title").hidden = streams.length > 1;
  const found = streams.find(({ id }) => id === kept) ?? (streams.length === 1 ? streams[0] : null);
  if (found) open(found);
  else askStream(streams);
}

function askStream(streams) {
  document.body.dataset.form = "message";
  const buttons = streams.map((stream) => make("button", { type: "button", class: "stream", click: () => open(stream) }, make("b", { text: stream.title }), make("span", { text: `${plural(stream.left, "card")} left · ${stream.mode === "classes" ? "sort pictures" : "check masks"}` })));
  at("stage").replaceChildren(make("div", { class: "message" }, make("h2", { text: `Hello ${person.name}. What would you like to review?` }), ...buttons));
  buttons[0].focus();
}

function open(stream) {
  desk?.close(desk.stream.id === stream.id);
  sessionStorage.setItem("groundswell-stream", stream.id);
  at("stream").value = stream.id;
  at("title").textContent = stream.title;
  document.title = `${stream.title} · review`;
  document.body.dataset.mode = stream.mode;
  at("examples").replaceChildren();
  at("figures").replaceChildren();
  auto.what = stream.mode === "classes" ? "what the model says" : `“${person.settings.auto_answer}”`;
  desk = new Desk({ person, stream, outbox, auto, settings: person.settings, say, gone, centre });
  figuresSoon(0);
  welcome(stream);
}

/** Before the first card that a device ever shows: what to do and which keys. */
function welcome(stream) {
  const key = `groundswell-welcome:${stream.mode}`;
  try {
    if (localStorage.getItem(key)) return;
    localStorage.setItem(key, "1");
  } catch {
    return; // it would come at every visit
  }
  dialog.open(`Hello ${person.name}`, ...helpBody(stream.mode === "classes" ? "class" : "single", auto.seconds !== null, isTouch), make("form", { method: "dialog" }, make("button", { class: "go", autofocus: true, text: "Start" })));
}

/** The link does not hold: say why, and what becomes of answers that were not sent. */
function gone(error) {
  desk?.close();
  desk = null;
  dialog.close();
  const waiting = outbox ? outbox.size : allWaiting();
  const kept = waiting ? [`${plural(waiting, "answer")} not sent yet: kept on this device. Open a new link of yours here, in this browser, and they are sent.`] : [];
  const heading = {
    "link.expired": "This link has expired",
    "link.revoked": "This link was withdrawn",
    "link.missing": "Please open your invite link",
    "link.invalid": "This link is not valid",
    person: "Another link was opened in this browser",
  }[error.field] ?? "This link does not work";
  at("wire").hidden = true;
  document.body.dataset.gone = "";
  problemPage(heading, [[error.message, error.hint].filter(Boolean).join(" ") || "Ask the person who invited you for a new one.", ...kept]);
}

// figures

function figuresSoon(after = FIGURES_MS) {
  if (figuresTimer && after) return;
  clearTimeout(figuresTimer);
  figuresTimer = setTimeout(async () => {
    figuresTimer = null;
    if (!desk) return;
    const asked = desk;
    const stats = await api.stats(desk.stream.id).catch(() => null); // a figure that is late is no trouble
    if (stats && desk === asked) at("figures").replaceChildren(make("h3", { text: "You" }), ...figures(stats));
  }, after);
}

async function showFigures() {
  const body = make("div", { text: "Loading…" });
  const recent = make("div", {}, ...recentList(desk.recent, (entry) => {
    dialog.close();
    desk.takeBack(entry);
  }));
  dialog.open("Your figures", body, recent);
  try {
    body.replaceChildren(...figures(await api.stats(desk.stream.id)));
  } catch (error) {
    body.textContent = `No figures now: ${error.message}`;
  }
}

// what the keys and buttons do

function showLook() {
  const speed = auto.seconds === null ? [] : [auto.slider(() => desk?.autoChanged())];
  dialog.open("Settings", ...look.panel(), ...speed, ...orderChoice(desk?.stream, () => open(desk.stream)));
}

function showHelp() {
  dialog.open("Keys", ...helpBody(desk?.card?.form ?? "single", auto.seconds !== null, isTouch));
}

function showLarge(tile) {
  const item = desk?.card?.data.items?.[Number(tile.dataset.at)];
  if (!item) return;
  const urls = [...new Set([item.crop, item.context].filter(Boolean))];
  dialog.open(`Picture ${Number(tile.dataset.at) + 1}${item.label ? ": " + item.label : ""}`, make("div", { class: "large" }, ...urls.map((src) => make("img", { src, alt: "", class: "look" }))));
}

function swap() {
  if (desk?.card?.form !== "single") return false;
  desk.card.element.classList.toggle("swapped");
  centre();
  return true;
}

function faster(sign) {
  if (auto.seconds === null) return false;
  auto.setSeconds(auto.seconds - sign * 0.5);
  say(`Auto mode answers after ${auto.seconds} s.`, true);
  desk?.autoChanged();
  return true;
}

const COMMANDS = {
  Backspace: () => desk?.takeBack(),
  " ": () => auto.toggle(),
  "+": () => faster(1),
  "-": () => faster(-1),
  "?": showHelp,
  h: showHelp,
  t: showFigures,
  x: swap,
};

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.metaKey || dialog.isOpen() || !desk) return;
  if (event.ctrlKey && event.key !== "z") return;
  const target = event.target;
  if (target.matches?.("input, select, textarea")) return;
  if (target.matches?.("button") && event.key === " ") return; // presses the button
  if (target.matches?.("button:not(.tile)") && event.key === "Enter") return;
  const digit = event.shiftKey && /^Digit\d$/.exec(event.code) && desk.card?.form === "sheet" ? (Number(event.code.at(-1)) + 9) % 10 : null;
  if (digit !== null) {
    const tile = desk.card.tiles[digit];
    if (tile) showLarge(tile);
  } else if (event.repeat) {
    if (!look.press(event.key.toLowerCase(), event.shiftKey)) event.preventDefault(); // a key that is held answers one card
    return;
  } else if (event.ctrlKey) desk.takeBack();
  else if (!desk.press(event.key, event) && !look.press(event.key.toLowerCase(), event.shiftKey)) {
    const command = COMMANDS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!command || command() === false) return;
  }
  event.preventDefault();
});

// a button that was pressed with the mouse takes no focus: keys go on to mean what they mean on the card
document.addEventListener("mousedown", (event) => {
  if (event.target.closest("button") && !dialog.isOpen()) event.preventDefault();
});

at("undo").addEventListener("click", () => desk?.takeBack());
at("auto").addEventListener("click", () => auto.toggle());
at("show-look").addEventListener("click", showLook);
at("show-stats").addEventListener("click", showFigures);
at("show-help").addEventListener("click", showHelp);
at("stage").addEventListener("click", (event) => event.target.closest(".context") && swap());
at("stream").addEventListener("change", () => {
  open(person.streams.find(({ id }) => id === at("stream").value));
  at("stream").blur();
});
document.addEventListener("visibilitychange", () => (document.hidden ? desk?.leave(false) : desk?.comeBack()));
addEventListener("pagehide", () => desk?.leave(true));
addEventListener("pageshow", (event) => event.persisted && desk?.comeBack());
addEventListener("beforeunload", (event) => {
  if (outbox?.size && !outbox.isKept) event.preventDefault();
});

start();
