-- Tells every gateway at once whose credential has changed (docs/per-subject-keys.md). For a table
-- `users` whose key `id` is the `sub` of the tokens; name in the function the columns that the query of
-- the gateway's configuration asks for.
CREATE FUNCTION portcullis_credentials() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    PERFORM pg_notify('portcullis_credentials', '');  -- nobody in particular: everybody
    RETURN NULL;
  END IF;
  IF TG_OP = 'UPDATE' AND (OLD.id, OLD.password_hash, OLD.status)
      IS NOT DISTINCT FROM (NEW.id, NEW.password_hash, NEW.status) THEN
    RETURN NULL;                                      -- something else, such as the time of the last visit
  END IF;
  IF TG_OP <> 'INSERT' THEN
    PERFORM pg_notify('portcullis_credentials', OLD.id::text);
  END IF;
  IF TG_OP <> 'DELETE' THEN
    PERFORM pg_notify('portcullis_credentials', NEW.id::text);
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER portcullis_credentials AFTER INSERT OR UPDATE OR DELETE ON users
  FOR EACH ROW EXECUTE FUNCTION portcullis_credentials();
CREATE TRIGGER portcullis_credentials_all AFTER TRUNCATE ON users
  FOR EACH STATEMENT EXECUTE FUNCTION portcullis_credentials();
