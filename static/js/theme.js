// Light or dark: the system's choice, or the visitor's own, kept in this browser.
// The admin keeps its choice under the same name.
const kept = localStorage.getItem("theme");
if (kept) document.documentElement.dataset.theme = kept;
document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  if (!button) return;
  button.hidden = false;
  button.addEventListener("click", () => {
    const { dataset } = document.documentElement;
    const isChosen = ["light", "dark"].includes(dataset.theme);
    const isDark = isChosen ? dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    dataset.theme = isDark ? "light" : "dark";
    localStorage.setItem("theme", dataset.theme);
  });
});
