// Keeps a page of the dashboard up to date, and sends what its buttons ask for.
// Only parts that changed are replaced: nothing flickers, opened details stay open, scrolling stays.
import { post } from "./post.js";

const POLL_MS = 2000;
const HIDDEN_MS = 15000;
const page = document.getElementById("page");
const notice = document.getElementById("notice");
const project = page.dataset.project;
const source = project ? `/dashboard/${project}/live.json` : "/dashboard/live.json";
const sent = new Map(); // id of a part -> its HTML as the server sent it
let etag = page.dataset.etag;
let figures = page.dataset.figures;

const GOOD_NEWS_MS = 15000;
let fading = 0;

function tell(text, bad = false) {
  clearTimeout(fading);
  if (text && !bad) fading = setTimeout(() => tell(""), GOOD_NEWS_MS);
  notice.textContent = text;
  notice.classList.toggle("bad", bad);
  notice.hidden = !text;
}

function parts(root) {
  return [...root.querySelectorAll("section[id], ul[id]")];
}
for (const part of parts(page)) sent.set(part.id, part.outerHTML);

/** Load the page again and replace the parts whose HTML is another one. The server escapes every text. */
async function renew() {
  const reply = await fetch(location.pathname, { headers: { Accept: "text/html" }, cache: "no-store" });
  if (!reply.ok || reply.redirected) return signedOut();
  const fresh = new DOMParser().parseFromString(await reply.text(), "text/html").getElementById("page");
  const here = parts(page).map((part) => part.id);
  const there = parts(fresh);
  if (here.join() !== there.map((part) => part.id).join()) {
    page.replaceChildren(...fresh.childNodes); // a part came or went
    for (const part of parts(page)) sent.set(part.id, part.outerHTML);
  } else {
    for (const part of there) {
      const html = part.outerHTML;
      if (html === sent.get(part.id)) continue;
      sent.set(part.id, html);
      const old = document.getElementById(part.id);
      const open = [...old.querySelectorAll("details")].map((one) => one.open);
      const focus = old.contains(document.activeElement) ? document.activeElement.dataset.act : undefined;
      old.replaceWith(part);
      [...part.querySelectorAll("details")].forEach((one, i) => (one.open = open[i] ?? one.open));
      if (focus) part.querySelector(`[data-act="${focus}"]`)?.focus();
    }
  }
  figures = fresh.dataset.figures;
}

function signedOut() {
  tell("You are signed out. Open this page again to sign in.", true);
  return true;
}

/** What changes every second, by textContent alone. */
function show(live) {
  const panel = document.getElementById(`live-${project}`);
  if (!panel) return;
  const put = (name, text) => {
    const at = panel.querySelector(`[data-live="${name}"]`);
    if (at && at.textContent !== text) at.textContent = text;
  };
  for (const name of ["round", "step", "line", "left", "left_from", "status"]) put(name, live[name]);
  const share = panel.querySelector('[data-live="share"]');
  if (share) share.value = live.share;
  const now = panel.querySelector('[data-live="now"]');
  if (now) now.hidden = !live.busy;
  for (const button of panel.querySelectorAll("[data-when]")) {
    button.hidden = (button.dataset.when === "paused") !== Boolean(live.paused);
  }
  for (const step of live.steps) {
    const at = panel.querySelector(`[data-step="${step.name}"]`);
    if (!at) continue;
    at.className = `step ${step.state}`;
    at.querySelector("b").textContent = step.sign;
    at.querySelector("small").textContent = step.says;
  }
}

async function poll() {
  try {
    const reply = await fetch(source, { headers: { "If-None-Match": etag }, cache: "no-store" });
    if (reply.status === 401) return signedOut();
    if (reply.status === 200) {
      etag = reply.headers.get("ETag") || "";
      const said = await reply.json();
      if (!project || said.figures !== figures) await renew();
      if (project) show(said.live);
    }
    if (notice.dataset.lost) {
      delete notice.dataset.lost;
      tell("");
    }
  } catch {
    notice.dataset.lost = "1";
    tell("The server cannot be reached; this page tries again.", true);
  }
}

async function keepPolling() {
  for (;;) {
    if (await poll()) return;
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, document.hidden ? HIDDEN_MS : POLL_MS);
      const wake = () => document.hidden || (clearTimeout(timer), resolve());
      document.addEventListener("visibilitychange", wake, { once: true });
    });
  }
}

// what the buttons ask for

const dialog = document.getElementById("ask");
const WORDS = { round: "round", "pause-asking": "pause", "pause-all": "pause", resume: "resume", serve: "serve", revoke: "revoke" };

function ask(button) {
  document.getElementById("ask-title").textContent = button.dataset.title;
  document.getElementById("ask-says").textContent = button.dataset.says;
  document.getElementById("ask-yes").textContent = button.textContent;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

if (dialog) {
  document.getElementById("ask-yes").addEventListener("click", () => dialog.close("yes"));
  document.getElementById("ask-no").addEventListener("click", () => dialog.close("no"));
}

document.addEventListener("click", async (event) => {
  if (event.target.closest("[data-sign-out]")) {
    try {
      location.assign((await post("/logout")).next);
    } catch (error) {
      tell(error.message, true);
    }
    return;
  }
  const button = event.target.closest("[data-act]");
  if (!button || !(await ask(button))) return;
  const act = button.dataset.act;
  const body = { what: act === "pause-all" ? "all" : "asking", version: button.dataset.version || "", invite: button.dataset.invite || "" };
  try {
    const said = await post(`/dashboard/${project}/${WORDS[act]}`, body);
    tell(said.says);
    etag = "";
    await poll();
  } catch (error) {
    tell(error.message, true);
  }
});

keepPolling();
