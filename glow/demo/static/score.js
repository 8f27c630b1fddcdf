export default { title: "Score", about: "", models: "images", show() {} };
