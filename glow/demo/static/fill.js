export default { title: "Fill in", about: "", models: "images", show() {} };
