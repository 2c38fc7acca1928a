// Keeps the page up to date and searches while typing. The page works without it.
"use strict";

(() => {
  const PERIOD = 3000; // milliseconds between two readings, at least
  const SHARE = 10; // a reading takes at most so much of the time: one in ten
  const PAUSE = 250; // after the last key, before a search
  const POINTS = 60; // of the line of rates

  const live = document.getElementById("live");
  const form = document.getElementById("search");
  const rates = [];
  let timer = null;
  let asked = 0;
  let took = 0;
  let reading = new AbortController();

  const isLive = () => live.getAttribute("aria-pressed") === "true";
  const say = (text) => { if (isLive()) live.textContent = text; };

  // Replaces the live parts of this page by those of another answer for it.
  function replace(text) {
    const other = new DOMParser().parseFromString(text, "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const now = other.getElementById(part.id);
      if (!now || now.innerHTML === part.innerHTML) continue;
      // The user may have selected a text, or have moved to a link of this part.
      const selection = document.getSelection();
      if (selection && !selection.isCollapsed && part.contains(selection.anchorNode)) continue;
      const places = () => [...part.querySelectorAll("a, .scroll")];
      const focused = places().indexOf(document.activeElement);
      const scrolled = [...part.querySelectorAll(".scroll")].map((of) => of.scrollLeft);
      part.className = now.className;
      part.innerHTML = now.innerHTML;
      part.querySelectorAll(".scroll").forEach((of, index) => { of.scrollLeft = scrolled[index] || 0; });
      if (focused >= 0) places()[focused]?.focus({ preventScroll: true });
    }
    draw();
  }

  // A line of the last rates of a Service, under the current one.
  function draw() {
    const rate = document.querySelector("[data-rate]");
    if (!rate) return;
    rates.push(Number(rate.dataset.rate));
    if (rates.length > POINTS) rates.shift();
    if (rates.length < 2) return;
    const most = Math.max(...rates, 1);
    const points = rates.map((value, index) => `${index},${24 - (22 * value) / most}`);
    const space = "http://www.w3.org/2000/svg";
    const picture = document.createElementNS(space, "svg");
    picture.setAttribute("class", "spark");
    picture.setAttribute("viewBox", `0 0 ${POINTS - 1} 26`);
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("aria-hidden", "true");
    const line = document.createElementNS(space, "polyline");
    line.setAttribute("points", points.join(" "));
    picture.append(line);
    rate.querySelector(".spark")?.remove();
    rate.append(picture);
  }

  async function read(address) {
    const mine = ++asked;
    const begun = performance.now();
    clearTimeout(timer);
    reading.abort(); // a search replaces what is under way
    reading = new AbortController();
    const limit = setTimeout(() => reading.abort(), 20000);
    try {
      const answer = await fetch(address, { cache: "no-store", signal: reading.signal });
      const text = await answer.text();
      if (mine !== asked) return; // a later request is under way
      // A document without live parts, such as "Busy", is replaced as a whole.
      if (answer.ok && !document.querySelector("main [data-live]")) return location.reload();
      if (answer.ok) replace(text);
      say(answer.ok ? "Live" : answer.status === 404 ? "Gone" : "Busy, trying again");
    } catch {
      if (mine !== asked) return;
      say("No answer, trying again");
    } finally {
      if (mine === asked) {
        clearTimeout(limit);
        took = performance.now() - begun;
        schedule();
      }
    }
  }

  function schedule() {
    clearTimeout(timer);
    if (isLive() && !document.hidden) timer = setTimeout(() => read(location.href), Math.max(PERIOD, SHARE * took));
  }

  live.hidden = false;
  live.addEventListener("click", () => {
    live.setAttribute("aria-pressed", String(!isLive()));
    live.textContent = isLive() ? "Live" : "Paused";
    schedule();
  });
  document.addEventListener("visibilitychange", schedule);

  if (form) {
    form.querySelector("button").hidden = true;
    let typing = null;
    const search = () => {
      const given = new URLSearchParams(new FormData(form));
      if (!given.get("q")) given.delete("q");
      const query = given.toString();
      history.replaceState(null, "", query ? `/?${query}` : "/");
      read(location.href);
    };
    form.addEventListener("submit", (event) => { event.preventDefault(); search(); });
    form.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(search, PAUSE); });
  }
  draw();
  schedule();
})();
