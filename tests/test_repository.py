"""The files around the package: who to cite, bounds that were tried, and scripts and forms that exist."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

from helpers import ROOT
from jax_reparam._version import __version__

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
EXTRAS = PROJECT['optional-dependencies']
LINUX = {**default_environment(), 'platform_machine': 'x86_64', 'sys_platform': 'linux', 'python_version': '3.11'}


def required(*extras):
    """What the package and its extras need on Linux with an x86-64, extras of its own resolved."""
    for text in [*PROJECT['dependencies'], *(text for extra in extras for text in EXTRAS[extra])]:
        requirement = Requirement(text)
        if requirement.name == PROJECT['name']:
            yield from required(*requirement.extras)
        elif requirement.marker is None or requirement.marker.evaluate(LINUX):
            yield requirement


def test_every_requirement_has_a_lower_bound():
    """`.ci/full lowest` installs the lowest versions that are allowed, and trains, folds and predicts."""
    found = {one.name: [bound.operator for bound in one.specifier] for one in required('all')}
    assert len(found) > 20
    assert {name for name, operators in found.items() if '>=' not in operators} == set()


def test_what_is_cited_is_this_version():
    found = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors', 'version'} <= found.keys()
    assert (found['version'], found['license']) == (__version__, PROJECT['license'])
    paper = found['preferred-citation']
    assert [author['family-names'] for author in paper['authors']] == ['Zhang', 'Dong', 'Xu', 'Han']
    assert paper['doi'] == '10.1109/JIOT.2024.3483232'


def test_the_changelog_has_this_version():
    text = (ROOT / 'CHANGELOG.md').read_text()
    assert re.findall(r'^## \[(.*)\]', text, re.MULTILINE) == ['Unreleased', __version__]


def test_the_workflow_runs_scripts_and_stages_that_exist():
    workflow = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())
    steps = [step['run'] for job in workflow['jobs'].values() for step in job['steps'] if 'run' in step]
    scripts = {step.split()[1] for step in steps}
    assert scripts == {'.ci/run', '.ci/full'}
    assert all((ROOT / script).is_file() for script in scripts)
    listed = re.search(r'stages="\n(.*?)\n"', (ROOT / '.ci/full').read_text(), re.DOTALL)[1]
    stages = {line.split()[0]: line.split()[1] for line in listed.splitlines()}
    matrix = workflow['jobs']['full']['strategy']['matrix']['include']
    assert {job['stage']: job['python'] for job in matrix} == stages
    for extras in re.findall(r'\[(\w+)\]', listed):
        assert extras in EXTRAS
    for file in re.findall(r'-c ([\w.]+)', listed):
        assert (ROOT / file).is_file()


FORMS = sorted((ROOT / '.github/ISSUE_TEMPLATE').glob('*.yml'))


@pytest.mark.parametrize('form', [form for form in FORMS if form.stem != 'config'], ids=lambda form: form.stem)
def test_an_issue_form_has_what_it_needs(form):
    found = yaml.safe_load(form.read_text())
    assert found.keys() == {'name', 'description', 'labels', 'body'}
    for field in found['body']:
        assert field['type'] in {'input', 'textarea', 'dropdown', 'checkboxes', 'markdown'}
        assert field['attributes']['label']
    assert any(field.get('validations', {}).get('required') for field in found['body'])
