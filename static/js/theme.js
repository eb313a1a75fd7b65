// Light or dark: the system's choice, or the visitor's own, kept in this browser.
const kept = localStorage.getItem("theme");
if (kept) document.documentElement.dataset.theme = kept;
document.addEventListener("DOMContentLoaded", () => {
  document.getElementById("theme")?.addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
    const next = dark ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    localStorage.setItem("theme", next);
  });
});
