"""Answers -> messages of `saccade.query.v1`."""

from saccade.query.v1 import query_service_pb2 as pb
from services.common.messages import image_to_message, segment_to_message
from services.query.results import FoundImage
from services.query.search import Answer, Plan

__all__ = ["answer_to_message"]


def answer_to_message(collection: str, answer: Answer, *, include_masks: bool) -> pb.SearchResponse:
    """Write a search's answer."""
    return pb.SearchResponse(
        results=[_result(collection, found, include_masks) for found in answer.results],
        next_page_token=answer.next_page_token,
        plan=_plan(answer.plan),
    )


def _result(collection: str, found: FoundImage, include_masks: bool) -> pb.SearchResult:
    image = image_to_message(collection, found.record)
    image.original_url = found.original_url
    image.thumbnail_url = found.thumbnail_url
    return pb.SearchResult(
        image=image,
        score=found.score,
        matched_segments=[
            pb.MatchedSegment(
                part=matched.part,
                segment=segment_to_message(matched.segment, include_mask=include_masks),
                similarity=matched.similarity,
            )
            for matched in found.matched
        ],
        score_parts=[
            pb.ScorePart(
                part=score.part,
                kind=score.kind,
                raw=score.raw,
                calibrated=score.calibrated,
                weight=score.weight,
            )
            for score in found.score_parts
        ],
        duplicate_ids=found.duplicates,
    )


def _plan(plan: Plan) -> pb.SearchPlan:
    message = pb.SearchPlan(
        reading=plan.reading,
        exact=bool(plan.searches) and all(made.exact for made in plan.searches),
        nprobe=max((made.nprobe for made in plan.searches), default=0),
        filter_selectivity=plan.filter_selectivity,
        candidates=plan.candidates,
        degraded=plan.degraded,
        trace_id=plan.trace_id,
        searches=[
            pb.IndexSearch(
                what=made.what,
                index=made.index,
                exact=made.exact,
                nprobe=made.nprobe,
                rows=made.rows,
                passing=made.passing or 0,
                reason=made.reason,
            )
            for made in plan.searches
        ],
        calibrated=plan.calibrated,
        generation=plan.generation.number,
        fingerprint=plan.generation.fingerprint,
    )
    for stage, seconds in plan.timings:
        timing = message.timings.add(stage=stage)
        timing.duration.FromNanoseconds(round(seconds * 1e9))
    return message
