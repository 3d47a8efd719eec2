//! The sensitive terms of each tenant, as the JSON that the API shows.
