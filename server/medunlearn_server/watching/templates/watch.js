"use strict";
(() => {
  const root = document.documentElement;
  const live = document.getElementById("live");
  const button = document.getElementById("theme");
  const keep = (theme) => { try { sessionStorage.setItem("theme", theme); } catch { /* refused */ } };
  const kept = () => { try { return sessionStorage.getItem("theme"); } catch { return null; } };
  if (kept() === "dark" || kept() === "light") { root.dataset.theme = kept(); }
  const dark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : window.matchMedia("(prefers-color-scheme: dark)").matches;
  const name = () => { button.textContent = dark() ? "Light mode" : "Dark mode"; };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark"; keep(root.dataset.theme); name();
  });
  name();

  const tick = () => {
    for (const place of document.querySelectorAll("[data-since]")) {
      const seconds = Math.max(0, Math.round(Date.now() / 1000 - Number(place.dataset.since)));
      place.textContent = seconds < 60 ? `${seconds} s`
        : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
    }
  };

  // The server sends whole pages; only what changed since the last one is asked for and put in.
  let tag = null;
  const look = async () => {
    let next = 2000;
    try {
      const headers = tag ? { "If-None-Match": tag } : {};
      const answer = await fetch(location.pathname, { headers, cache: "no-store" });
      if (answer.status === 200) {
        tag = answer.headers.get("ETag");
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.getElementById("content");
        if (fresh) {
          document.getElementById("content").replaceWith(document.adoptNode(fresh));
          document.title = page.title;
        }
      }
      live.classList.toggle("lost", !answer.ok && answer.status !== 304);
      live.textContent = answer.ok || answer.status === 304 ? "live" : `error ${answer.status}`;
    } catch {
      live.classList.add("lost");
      live.textContent = "no connection";
      next = 5000;
    }
    tick();
    setTimeout(look, document.hidden ? 15000 : next);
  };
  setInterval(tick, 1000);
  tick();
  look();
})();
