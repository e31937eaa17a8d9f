"""LocalStack's CloudFormation, which can also delete a stack whose creation failed.

LocalStack neither rolls back a failed creation nor remembers what it had created by then, so that
deleting the stack would leave everything in place, and in the way of the next attempt.
"""

from typing import Any

from localstack.aws.api import RequestContext
from localstack.services.cloudformation.stores import get_cloudformation_store
from localstack.services.cloudformation.v2.entities import Stack
from localstack.services.cloudformation.v2.provider import (
    CloudformationProviderV2,
    find_stack_v2,
)


class ProcessCloudformationProvider(CloudformationProviderV2):
    """LocalStack's provider, with failed creations cleaned up."""

    def delete_stack(self, context: RequestContext, stack_name: str, **parameters: Any) -> None:
        """Delete a stack with everything that was created for it."""
        store = get_cloudformation_store(context.account_id, context.region)
        stack = find_stack_v2(store, stack_name)
        if stack is not None and not stack.processed_template:
            attempts = [each for each in store.change_sets.values() if each.stack is stack]
            if attempts and attempts[-1].processed_template:
                stack.processed_template = created_part(attempts[-1].processed_template, stack)
        super().delete_stack(context, stack_name, **parameters)


def created_part(template: dict[str, Any], stack: Stack) -> dict[str, Any]:
    """Return the template of what was created: other resources may belong to somebody else."""
    resources = {
        name: resource
        for name, resource in template["Resources"].items()
        if stack.resolved_resources.get(name, {}).get("PhysicalResourceId")
    }
    return {**template, "Resources": resources, "Outputs": {}}
