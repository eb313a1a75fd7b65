// Copies a command to the clipboard, and reads the page again until the copier is connected.
const EVERY_MS = 3000;

for (const command of document.querySelectorAll("pre.command")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "small";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy: ${command.textContent}`);
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(command.textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  const line = document.createElement("div");
  line.className = "command";
  command.replaceWith(line);
  line.append(command, button);
}

// The answer to the form is a file, so the page stays. Its token is used up: another file needs a new page.
document.querySelector("form:has([name=token])").addEventListener("submit", ({ target }) => {
  setTimeout(() => {
    target.hidden = true;
    const says = document.createElement("b");
    says.textContent = "copybot.toml is on its way to your downloads.";
    const again = document.createElement("a");
    again.href = "";
    again.textContent = "Make another one";
    document.getElementById("downloaded").append(says, " It can be downloaded once. ", again);
  });
});

async function look() {
  const answer = await fetch(location.href, { redirect: "error" }).catch(() => null);
  if (answer?.ok) {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const found = page.getElementById("contact");
    const shown = document.getElementById("contact");
    if (found.innerHTML !== shown.innerHTML) shown.replaceChildren(...found.childNodes);
    shown.dataset.online = found.dataset.online;
  }
  if (document.getElementById("contact").dataset.online) return;
  setTimeout(look, EVERY_MS);
}

if (!document.getElementById("contact").dataset.online) setTimeout(look, EVERY_MS);
