"""Films a spiking HalfCheetah beside the dense one, as a GIF. EGL, OSMesa or the renderer in MUJOCO_GL draws."""

import os
import subprocess
import sys

import typer
from PIL import Image, ImageDraw
from rich.progress import track

import snnkern

ENVIRONMENT = "HalfCheetah-v5"
TRIAL = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()"


def main(output: str = "cheetah.gif", steps: int = 200, neuron: str = "mt", timesteps: int = 4) -> None:
    snnkern.files.check_writable(output)
    for renderer in os.environ.get("MUJOCO_GL", "egl osmesa").split():
        os.environ["MUJOCO_GL"] = renderer
        if not subprocess.run([sys.executable, "-c", TRIAL], capture_output=True).returncode:
            break  # tried in another process, because MuJoCo reads the variable only once, at import
    else:
        sys.exit("MuJoCo cannot draw here: it needs EGL or OSMesa (on Debian: apt-get install libosmesa6)")
    env = snnkern.environments.make(ENVIRONMENT, render_mode="rgb_array", camera_name="track", width=320, height=240)
    actor = snnkern.load_actor("td3-halfcheetah")
    snn = snnkern.convert(actor, snnkern.collect(actor, ENVIRONMENT, 2_000), neuron=neuron, timesteps=timesteps)
    film = [Image.new("RGB", (640, 240)) for _ in range(steps)]
    for left, policy, name in (0, actor, "dense"), (320, snn, f"{neuron.upper()}, T = {timesteps}"):
        observation, _ = env.reset(seed=0)
        for frame in track(film, name):
            observation, *_, facts = env.step(policy.act(observation))
            frame.paste(Image.fromarray(env.render()), (left, 0))
            ImageDraw.Draw(frame).text((left + 8, 6), f"{name}: {facts['x_position']:.1f} m", "black", font_size=16)
    film[0].save(f"{output}.part", "GIF", save_all=True, append_images=film[1:], duration=50, loop=0)
    os.replace(f"{output}.part", output)


if __name__ == "__main__":
    typer.run(main)
