"""Films a spiking cartpole from pixels: the scene, the frames that it sees, and how often each layer's neurons fire."""

from types import SimpleNamespace

import typer
from PIL import Image, ImageDraw
from rich.progress import track

import snnkern
from snnkern.control import environments, follow, pixels

TASK, AMBER = "dm_control/cartpole-swingup-v0", [[[255]], [[176]], [[0]]]


def main(output: str = "cartpole.gif", decisions: int = 300, neuron: str = "if", timesteps: int = 8, steps: int = 500):
    snnkern.files.check_writable(output)
    actor = snnkern.load_actor("drqv2-cartpole-swingup")
    snn = snnkern.convert(actor, snnkern.collect(actor, TASK, steps), neuron=neuron, timesteps=timesteps)
    run = follow.follow("snn", {"snn": snn}, TASK, seed=0)
    with environments.one_of(TASK, SimpleNamespace(view=pixels.View((3, 360, 360), 2, camera=0))) as scene:
        drawn, film = scene.reset(seed=0)[0], []
        for now, layers in enumerate(track(follow.replay(snn, run.observations[:decisions]), "film", total=decisions)):
            parts = [(376 + 122 * i, 24, (112, 112), run.observations[now, 0, 3 * i :][:3]) for i in range(3)]
            for i, (layer, decision) in enumerate(zip(snn.hidden, layers, strict=True)):
                rate = (decision.spikes != 0).double().mean(dim=(0, 1)).view(layer.neuron_shape).numpy()
                x, y, lit = (376 + 91 * i, 162, 3 * rate.mean(0)) if rate.ndim > 1 else (376, 124 + 36 * i, rate[None])
                parts.append((x, y, (83, 83) if rate.ndim > 1 else (356, 28), lit.clip(max=1) * AMBER))
            page = Image.new("RGB", (744, 376), "#202024")
            for x, y, size, part in [(8, 8, (360, 360), drawn), *parts]:
                page.paste(Image.fromarray(part.transpose(1, 2, 0).astype("uint8")).resize(size, 0), (x, y))
            title = f"{neuron.upper()}, T = {timesteps}: return {run.rewards['snn'][:now].sum():.0f}"
            for at, text in ((14, 12), title), ((376, 8), "what it sees"), ((376, 146), "spikes"):
                ImageDraw.Draw(page).text(at, text, font_size=14)
            film.append(page.quantize(128, palette=film[0] if film else None, dither=0))  # static parts stay the same
            drawn, *_ = scene.step(run.actions["snn"][now, 0])
    film[0].save(output, save_all=True, append_images=film[3::3], duration=60, loop=0)  # a decision is 20 ms


if __name__ == "__main__":
    typer.run(main)
