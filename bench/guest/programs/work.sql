-- work: what the sqlite3 workload runs, in memory: inserts, an index, joins, grouping, updates, text functions, a sort.
PRAGMA journal_mode = MEMORY;
CREATE TABLE item (id INTEGER PRIMARY KEY, owner INTEGER, price INTEGER, name TEXT);
CREATE TABLE owner (id INTEGER PRIMARY KEY, name TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
INSERT INTO item SELECT i, (i * 7919) % 1000, (i * 104729) % 9973, 'item ' || ((i * 31) % 5000) FROM n;
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999)
INSERT INTO owner SELECT i, 'owner ' || i FROM n;
CREATE INDEX item_owner ON item (owner, price);
SELECT count(*), sum(price) FROM item WHERE name LIKE '%42%';
SELECT owner.name, count(*), max(price) FROM item JOIN owner ON owner.id = item.owner WHERE price > 5000 GROUP BY owner.id ORDER BY 2 DESC, 1 LIMIT 5;
UPDATE item SET price = price + 1 WHERE owner % 10 = 3;
SELECT sum(length(upper(name))), sum(price) FROM item;
SELECT name, price FROM item ORDER BY name, price DESC LIMIT 3 OFFSET 20000;
DELETE FROM item WHERE owner < 100;
SELECT count(DISTINCT name), avg(price) FROM item;
