// The key that this tab shows to the gateway. It is kept as long as the tab, and goes nowhere but into a header.

import { $ } from "./dom.js";

const NAME = "saccade.key";
let question = null;

export const currentKey = () => sessionStorage.getItem(NAME) || "";

export function forgetKey() {
  sessionStorage.removeItem(NAME);
}

/** Ask for another key than the one that was refused; whether there is one now. Many may ask, a person is asked once. */
export async function askForKey(refused, why) {
  if (currentKey() !== refused) return Boolean(currentKey());
  question ??= ask(refused ? why : "This gateway answers those who show a key.").finally(() => (question = null));
  return question;
}

function ask(why) {
  const dialog = $("key-dialog");
  $("key-why").textContent = why;
  $("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const answered = () => {
      const key = $("key").value.trim();
      $("key").value = "";
      const given = dialog.returnValue === "use" && key !== "";
      if (given) sessionStorage.setItem(NAME, key);
      resolve(given);
    };
    dialog.addEventListener("close", answered, { once: true });
  });
}
