"""Which pages of classes a run leaves: those of its newest model, on the held-out images and on each evaluation set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ram_ray.evaluation.class_details import CLASSES_FILE
from ram_ray.evaluation_results import Evaluation, PreparedSet, SetScore
from ram_ray.reporting.class_pages import BOUNDS, INDEX, Subject, write_class_pages
from ram_ray.reporting.thumbnails import cut_thumbnails, read_locations
from ram_ray.results import Annotations
from ram_ray.runtime.artifacts import Run, StageResult
from ram_ray.runtime.location import locate
from ram_ray.settings.runtime import Execution

FOLDER = "classes"
BACK = "../../report.html"


class ClassReports:
    """Keeps the results that the pages are made of; of several models, the last that was scored."""

    def __init__(self) -> None:
        self.links: list[tuple[str, str]] = []  # name of the images, and path from report.html
        self._held_out: Annotations | None = None
        self._evaluation: Evaluation | None = None
        self._sets: dict[str, PreparedSet] = {}
        self._scores: dict[str, SetScore] = {}

    def add(self, result: StageResult) -> None:
        """Take a result of the run.

        Args:
            result: of a finished stage.
        """
        match result:
            case Annotations(held_out=True):
                self._held_out = result
            case Evaluation():
                self._evaluation = result
            case PreparedSet():
                self._sets[result.set_name] = result
            case SetScore():
                self._scores[result.set_name] = result

    def write(self, run: Run, *, name: str, execution: Execution, has_report: bool) -> Iterator[str]:
        """Write the pages, those that are there already excepted.

        Args:
            run: gets the files.
            name: of the run.
            execution: how the stages of the run are executed.
            has_report: whether there is a page of the run to link to.

        Yields:
            A line for each set of pages that was not written, and why.
        """
        self.links = []
        for report in self._reports(name, BACK if has_report else None):
            fs, path = locate(report.subject.details)
            if not fs.exists(path):
                manifest = f"{report.subject.details.rpartition('/')[0]}.json"
                yield f"{report.images}: evaluated by a version without pages of classes; for these remove {manifest}"
                continue
            cut = partial(_cut, rows=report.rows, partitioned=report.partitioned, execution=execution)
            write_class_pages(run.path("evaluation", FOLDER, report.place), report.subject, cut=cut)
            self.links.append((report.images, f"{FOLDER}/{report.place}/{INDEX}"))

    def _reports(self, name: str, back: str | None) -> Iterator[_Report]:
        score, held_out = self._evaluation, self._held_out
        if score and held_out:
            model = score.stage.removeprefix("evaluate_")
            about = f"The model {model} on {score.images:,} held-out images"
            subject = Subject(name, about, f"{score.path}/{CLASSES_FILE}", score.digest, back)
            yield _Report("held_out", "held-out images", held_out.path, True, subject)
        for of_set in self._scores.values():
            for queries, figures in of_set.figures.items():
                if not figures.num_classes and not figures.matched_by:
                    continue  # the model answers for none of its classes
                described = queries == "descriptions"
                images = f"{of_set.set_name}{', asked by descriptions' if described else ''}"
                about = f"The model {of_set.model_stage} on {of_set.images:,} images of {images}"
                details = f"{of_set.path}/{queries}_{CLASSES_FILE}"
                subject = Subject(name, about, details, of_set.digest, back)
                place = f"{'described' if described else 'set'}-{of_set.set_name}"
                yield _Report(place, images, self._sets[of_set.set_name].path, False, subject)


@dataclass(frozen=True)
class _Report:
    place: str  # folder of the pages
    images: str  # what they are called
    rows: str  # folder that says where they lie
    partitioned: bool  # by shard
    subject: Subject


def _cut(keys: Sequence[str], *, rows: str, partitioned: bool, execution: Execution) -> dict[str, bytes]:
    locations = read_locations(rows, execution=execution, partitioned=partitioned)
    return cut_thumbnails(locations, keys, execution=execution, bounds=BOUNDS)
