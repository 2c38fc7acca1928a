#!/bin/sh
# Type-checks the dashboard with Grafana's own types. Needs npm; changes nothing but a directory of its own.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm install --silent --no-save @grafana/schema@13.2.3 typescript@5
# The packages' types are written for bundlers: a copy inside the project needs no export map.
cp -r node_modules/@grafana/schema/dist/types types
{
    cat <<'TYPES'
import type { Dashboard, Panel } from "./types/raw/dashboard/x/types.gen";
import type { Options as Stat } from "./types/raw/composable/stat/panelcfg/x/types.gen";
import type { Options as Table } from "./types/raw/composable/table/panelcfg/x/types.gen";
import type { Options as Lines, FieldConfig } from "./types/raw/composable/timeseries/panelcfg/x/types.gen";
// JSON has an enum's text.
type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[]
    : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
type Of<Type, Options, Custom> = Omit<Json<Panel>, "type" | "options" | "fieldConfig"> & {
    type: Type;
    options?: Partial<Json<Options>>;
    fieldConfig?: {
        defaults: Omit<NonNullable<Json<Panel>["fieldConfig"]>["defaults"], "custom"> & { custom?: Partial<Json<Custom>> };
        overrides: NonNullable<Json<Panel>["fieldConfig"]>["overrides"];
    };
};
type Row = { type: "row"; title: string; gridPos: Json<Panel>["gridPos"]; collapsed?: boolean; panels?: Chart[]; id?: number };
type Chart = Of<"stat", Stat, {}> | Of<"table", Table, Record<string, unknown>> | Of<"timeseries", Lines, FieldConfig>;
TYPES
    printf 'export const dashboard: Omit<Json<Dashboard>, "panels"> & { panels: (Row | Chart)[] } = '
    cat "$here/dashboard.json"
} > dashboard.ts
npx tsc --noEmit --strict --skipLibCheck --module esnext --moduleResolution node dashboard.ts
echo "the dashboard is what Grafana's types ask for"
