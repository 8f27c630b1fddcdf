"""The view Scales: what each scale of the model holds of an image."""

from glow.demo.ask import Ask, as_pngs
from glow.demo.images import latents, pictures
from glow.demo.jobs import Event
from glow.evaluation.latents import redraw


def scales(ask: Ask) -> Event:
    """For every scale, ``n`` images with its latents drawn anew, then ``n`` with those of all others; finest first.

    With each row its mean error in grey levels.
    """
    session = ask.session(
        mode="reconstruct",
        seed=ask.integer("seed", 0, 2**31, 0),
        temperature=ask.number("temperature", 0, 3, 0.7),
    )
    refs, n = ask.refs("images", 1), ask.integer("n", 1, 12, 6)
    x, y = pictures(ask, session, refs)
    kept = [z.expand(n, *z.shape[1:]) for z in latents(ask, session, refs)]
    every = range(len(kept))
    sets = [(scale,) for scale in every] + [tuple(i for i in every if i != scale) for scale in every]
    rows = []
    for drawn in dict.fromkeys(sets):  # of two scales, all but one is the other
        changed = redraw(kept, drawn, session.cfg.temperature, session.generator("redraw"))
        images = ask.decode(session, changed, None if y is None else y.expand(n)).images
        error = float((images.int() - x.int()).abs().float().mean())
        rows.append({"drawn": drawn, "images": as_pngs(images, session.levels), "error": error})
    return {"image": as_pngs(x, session.levels)[0], "rows": rows}


HANDLERS = {"scales": scales}
