"""Builds the page that runs the packaged model in a browser: python docs/demo/build.py writes build/demo.

npm gets LiteRT's web runtime, of the version that package-lock.json fixes; git holds none of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODEL = ROOT / 'jax_reparam/pretrained/emodb_xs'
RUNTIME = HERE / 'node_modules/@litertjs'
PAGE = ('index.html', 'style.css', 'demo.js', 'recorder.js')
# With relaxed SIMD and without; those with threads need headers that plain servers do not send.
WASM = ('litert_wasm_internal', 'litert_wasm_compat_internal')


def build(out: Path) -> None:
    """Writes the page, the model and the runtime to a folder."""
    manifest = json.loads((MODEL / 'manifest.json').read_text())
    inputs, waveform = manifest['input'], manifest['device']['waveform']
    wasm = [f'{stem}.{ending}' for stem in WASM for ending in ('js', 'wasm')]
    files = {name: HERE / name for name in PAGE} | {f'litert/{name}': RUNTIME / 'core/wasm' / name for name in wasm}
    files |= {'model.tflite': MODEL / waveform['file'], 'litert/wasm-utils.js': RUNTIME / 'wasm-utils/dist/index.js'}
    (out / 'litert').mkdir(parents=True, exist_ok=True)
    for name, source in files.items():
        shutil.copyfile(source, out / name)
    # Browsers know no names of packages.
    core = (RUNTIME / 'core/dist/index.js').read_text().replace('"@litertjs/wasm-utils"', '"./wasm-utils.js"')
    (out / 'litert/core.js').write_text(core)
    rate, step = inputs['sample_rate'], inputs['sample_rate'] * inputs['hop_ms'] // 1000
    about = {'rate': rate, 'samples': waveform['samples'], 'hop': inputs['hop_frames'] * step, 'step': step}
    (out / 'model.json').write_text(json.dumps({'labels': manifest['labels'], **about}))


def main() -> int:
    """Gets the runtime and builds the page."""
    npm = shutil.which('npm')
    if npm is None:
        print('docs/demo/build.py: expected npm (Node.js), found none in PATH', file=sys.stderr)
        return 2
    if subprocess.run([npm, 'ci', '--ignore-scripts', '--no-audit', '--no-fund'], cwd=HERE, check=False).returncode:
        print(f'{HERE}: npm ci failed, see above', file=sys.stderr)
        return 2
    build(ROOT / 'build/demo')
    print('build/demo: python -m http.server --bind 127.0.0.1 --directory build/demo')
    return 0


if __name__ == '__main__':
    sys.exit(main())
