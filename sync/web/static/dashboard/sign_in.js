import { post } from "./post.js";

const form = document.getElementById("form");
const wrong = document.getElementById("wrong");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  wrong.hidden = true;
  try {
    const said = await post("/login", {
      email: document.getElementById("email").value,
      password: document.getElementById("password").value,
      next: form.dataset.next,
    });
    location.assign(said.next);
  } catch (error) {
    wrong.textContent = error.message;
    wrong.hidden = false;
    document.getElementById("password").select();
  } finally {
    button.disabled = false;
  }
});
