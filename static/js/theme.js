// Light or dark: the system's setting, or the visitor's choice, stored in this browser under the key
// that the admin uses too.
const stored = localStorage.getItem("theme");
if (stored) document.documentElement.dataset.theme = stored;
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
